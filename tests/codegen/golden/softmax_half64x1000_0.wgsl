var<private> nl_nothing: u32 = 0u;
fn nl_float(bits: u32) -> f32 { return bitcast<f32>(bits | nl_nothing); }
fn nl_is_nan(x: f32) -> bool { return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u; }
fn nl_f16_to_f32(h: u32) -> f32 {
  let sign = (h & 0x8000u) << 16u;
  let rest = h & 0x7fffu;
  if (rest >= 0x7c00u) { return nl_float(sign | 0x7f800000u | ((rest & 0x3ffu) << 13u)); }
  if (rest < 0x400u) {
    let small = f32(rest) * 5.9604645e-8f;
    return bitcast<f32>(bitcast<u32>(small) | sign);
  }
  return bitcast<f32>(sign | ((rest << 13u) + 0x38000000u));
}
@group(0) @binding(0) var<storage, read_write> b0: array<u32>;
fn b0_word(i: i32) -> u32 { return b0[i]; }
@group(0) @binding(1) var<storage, read_write> b1: array<f32>;
var<workgroup> shared0_16: array<f32, 256>;
var<workgroup> shared0_32: array<f32, 256>;
@compute @workgroup_size(256, 1, 1)
fn k_reduce_max_1x1000(@builtin(local_invocation_index) local: u32, @builtin(workgroup_id) group: vec3<u32>) {
  nl_nothing = group.z;
  let tid = i32(local);
  let block = i32(group.x);
  let u1 = block * 32 + (tid % 32);
  let live2 = (u1 < 500);
  let u3 = select(499i, u1, live2);
  var a4: f32 = nl_float(0xff800000u);
  var a5: f32 = nl_float(0xff800000u);
  let v8 = (u3 * 2i);
  for (var j6: i32 = (tid / 32); j6 < 64; j6 += 8) {
    let v7 = (j6 * 1000i);
    let v9 = (v7 + v8);
    let v10 = (v9 + 0i);
    let w11_0 = b0_word((v10 >> 1u) + 0);
    let x12 = ((w11_0 >> 0u) & 65535u);
    let x13 = ((w11_0 >> 16u) & 65535u);
    let v14 = nl_f16_to_f32(x12);
    a4 = select(v14, a4, ((v14 < a4) || nl_is_nan(a4)));
    let v15 = nl_f16_to_f32(x13);
    a5 = select(v15, a5, ((v15 < a5) || nl_is_nan(a5)));
  }
  shared0_16[tid] = a4;
  workgroupBarrier();
  let v17 = shared0_16[(tid % 32) + 0];
  let v18 = shared0_16[(tid % 32) + 32];
  let v19 = select(v18, v17, ((v18 < v17) || nl_is_nan(v17)));
  let v20 = shared0_16[(tid % 32) + 64];
  let v21 = select(v20, v19, ((v20 < v19) || nl_is_nan(v19)));
  let v22 = shared0_16[(tid % 32) + 96];
  let v23 = select(v22, v21, ((v22 < v21) || nl_is_nan(v21)));
  let v24 = shared0_16[(tid % 32) + 128];
  let v25 = select(v24, v23, ((v24 < v23) || nl_is_nan(v23)));
  let v26 = shared0_16[(tid % 32) + 160];
  let v27 = select(v26, v25, ((v26 < v25) || nl_is_nan(v25)));
  let v28 = shared0_16[(tid % 32) + 192];
  let v29 = select(v28, v27, ((v28 < v27) || nl_is_nan(v27)));
  let v30 = shared0_16[(tid % 32) + 224];
  let v31 = select(v30, v29, ((v30 < v29) || nl_is_nan(v29)));
  shared0_32[tid] = a5;
  workgroupBarrier();
  let v33 = shared0_32[(tid % 32) + 0];
  let v34 = shared0_32[(tid % 32) + 32];
  let v35 = select(v34, v33, ((v34 < v33) || nl_is_nan(v33)));
  let v36 = shared0_32[(tid % 32) + 64];
  let v37 = select(v36, v35, ((v36 < v35) || nl_is_nan(v35)));
  let v38 = shared0_32[(tid % 32) + 96];
  let v39 = select(v38, v37, ((v38 < v37) || nl_is_nan(v37)));
  let v40 = shared0_32[(tid % 32) + 128];
  let v41 = select(v40, v39, ((v40 < v39) || nl_is_nan(v39)));
  let v42 = shared0_32[(tid % 32) + 160];
  let v43 = select(v42, v41, ((v42 < v41) || nl_is_nan(v41)));
  let v44 = shared0_32[(tid % 32) + 192];
  let v45 = select(v44, v43, ((v44 < v43) || nl_is_nan(v43)));
  let v46 = shared0_32[(tid % 32) + 224];
  let v47 = select(v46, v45, ((v46 < v45) || nl_is_nan(v45)));
  let v48 = (v8 + 0i);
  if ((live2 && ((tid / 32) == 0))) {
    b1[v48 + 0] = v31;
    b1[v48 + 1] = v47;
  }
}
