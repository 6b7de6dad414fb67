@group(0) @binding(0) var<storage, read_write> b0: array<u32>;
fn b0_word(i: i32) -> u32 { return b0[i]; }
fn b0_get(i: i32) -> u32 { return (b0_word(i >> 2u) >> ((u32(i) & 3u) * 8u)) & 255u; }
@group(0) @binding(1) var<storage, read_write> b1: array<u32>;
fn b1_word(i: i32) -> u32 { return b1[i]; }
fn b1_get(i: i32) -> u32 { return (b1_word(i >> 2u) >> ((u32(i) & 3u) * 8u)) & 255u; }
@group(0) @binding(2) var<storage, read_write> b2: array<atomic<u32>>;
fn b2_set(i: i32, v: u32) { atomicStore(&b2[i], v); }
fn b2_put(i: i32, v: u32) { let s = (u32(i) & 3u) * 8u; atomicAnd(&b2[i >> 2u], ~(255u << s)); atomicOr(&b2[i >> 2u], (v & 255u) << s); }
@compute @workgroup_size(256, 1, 1)
fn k_add_333x77(@builtin(local_invocation_index) local: u32, @builtin(workgroup_id) group: vec3<u32>) {
  let tid = i32(local);
  let block = i32(group.x);
  let u1 = block * 256 + tid;
  if ((u1 < 6410i)) {
    let v2 = (u1 * 4i);
    let v3 = (v2 + 0i);
    let w4_0 = b0_word((v3 >> 2u) + 0);
    let x5 = ((w4_0 >> 0u) & 255u);
    let x6 = ((w4_0 >> 8u) & 255u);
    let x7 = ((w4_0 >> 16u) & 255u);
    let x8 = ((w4_0 >> 24u) & 255u);
    let w9_0 = b1_word((v3 >> 2u) + 0);
    let x10 = ((w9_0 >> 0u) & 255u);
    let x11 = ((w9_0 >> 8u) & 255u);
    let x12 = ((w9_0 >> 16u) & 255u);
    let x13 = ((w9_0 >> 24u) & 255u);
    let v14 = ((x5 + x10) & 255u);
    let v15 = ((x6 + x11) & 255u);
    let v16 = ((x7 + x12) & 255u);
    let v17 = ((x8 + x13) & 255u);
    b2_set((v3 >> 2u) + 0, (v14 & 255u) | ((v15 & 255u) << 8u) | ((v16 & 255u) << 16u) | ((v17 & 255u) << 24u));
  }
  if ((u1 == 6410i)) {
    for (var t19: i32 = 0; t19 < 1; t19 += 1) {
      let v20 = (u1 * 4i);
      let v21 = (v20 + t19);
      let x22 = b0_get(v21);
      let x23 = b1_get(v21);
      let v24 = ((x22 + x23) & 255u);
      b2_put(v21, v24);
    }
  }
}
