fn nl_is_nan(x: f32) -> bool { return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u; }
@group(0) @binding(0) var<storage, read_write> b0: array<f32>;
@group(0) @binding(1) var<storage, read_write> b1: array<f32>;
@group(0) @binding(2) var<storage, read_write> b2: array<f32>;
@group(0) @binding(3) var<storage, read_write> b3: array<f32>;
var<workgroup> tile0_11: array<f32, 576>;
var<workgroup> tile0_12: array<f32, 576>;
@compute @workgroup_size(256, 1, 1)
fn k_matmul_add_relu_100x70(@builtin(local_invocation_index) local: u32, @builtin(workgroup_id) group: vec3<u32>) {
  let tid = i32(local);
  let block = i32(group.x);
  let bn1 = (block % 3);
  let bz2 = (block / 3);
  let bm3 = (bz2 % 4);
  let bz4 = (bz2 / 4);
  let m5 = bm3 * 32;
  let n6 = bn1 * 32;
  var c7: f32 = 0.0f;
  var c8: f32 = 0.0f;
  var c9: f32 = 0.0f;
  var c10: f32 = 0.0f;
  var a13: f32 = 0.0f;
  var a14: f32 = 0.0f;
  var b15: f32 = 0.0f;
  var b16: f32 = 0.0f;
  {
    let i17 = m5 / 2 + (tid % 16);
    let k18 = 0 + (tid / 16);
    let g19 = ((i17 < 50) && (k18 < 33));
    let v20 = (k18 * 100i);
    let v21 = (i17 * 2i);
    let v22 = (v20 + v21);
    let v23 = (v22 + 0i);
    var w24_0: f32 = 0.0f;
    if (g19) { w24_0 = b0[v23 + 0]; }
    var w24_1: f32 = 0.0f;
    if (g19) { w24_1 = b0[v23 + 1]; }
    let x25 = w24_0;
    let x26 = w24_1;
    a13 = select(0.0f, x25, g19);
    a14 = select(0.0f, x26, g19);
    let i27 = n6 + (tid / 16);
    let k28 = 0 + (tid % 16);
    let g29 = ((i27 < 70) && (k28 < 33));
    let v30 = (i27 * 33i);
    let v31 = (v30 + k28);
    var x32: f32 = 0.0f; if (g29) { x32 = b1[v31]; }
    b15 = select(0.0f, x32, g29);
    let i33 = n6 + ((tid + 256) / 16);
    let k34 = 0 + ((tid + 256) % 16);
    let g35 = ((i33 < 70) && (k34 < 33));
    let v36 = (i33 * 33i);
    let v37 = (v36 + k34);
    var x38: f32 = 0.0f; if (g35) { x38 = b1[v37]; }
    b16 = select(0.0f, x38, g35);
  }
  for (var k39: i32 = 0; k39 < 33; k39 += 16) {
    workgroupBarrier();
    tile0_11[(tid / 16) * 36 + (tid % 16) * 2 + 0] = a13;
    tile0_11[(tid / 16) * 36 + (tid % 16) * 2 + 1] = a14;
    tile0_12[((tid % 16) * 1 + 0) * 36 + (tid / 16)] = b15;
    tile0_12[(((tid + 256) % 16) * 1 + 0) * 36 + ((tid + 256) / 16)] = b16;
    workgroupBarrier();
    if (k39 + 16 < 33) {
      let k40 = k39 + 16;
      let i41 = m5 / 2 + (tid % 16);
      let k42 = k40 + (tid / 16);
      let g43 = ((i41 < 50) && (k42 < 33));
      let v44 = (k42 * 100i);
      let v45 = (i41 * 2i);
      let v46 = (v44 + v45);
      let v47 = (v46 + 0i);
      var w48_0: f32 = 0.0f;
      if (g43) { w48_0 = b0[v47 + 0]; }
      var w48_1: f32 = 0.0f;
      if (g43) { w48_1 = b0[v47 + 1]; }
      let x49 = w48_0;
      let x50 = w48_1;
      a13 = select(0.0f, x49, g43);
      a14 = select(0.0f, x50, g43);
      let i51 = n6 + (tid / 16);
      let k52 = k40 + (tid % 16);
      let g53 = ((i51 < 70) && (k52 < 33));
      let v54 = (i51 * 33i);
      let v55 = (v54 + k52);
      var x56: f32 = 0.0f; if (g53) { x56 = b1[v55]; }
      b15 = select(0.0f, x56, g53);
      let i57 = n6 + ((tid + 256) / 16);
      let k58 = k40 + ((tid + 256) % 16);
      let g59 = ((i57 < 70) && (k58 < 33));
      let v60 = (i57 * 33i);
      let v61 = (v60 + k58);
      var x62: f32 = 0.0f; if (g59) { x62 = b1[v61]; }
      b16 = select(0.0f, x62, g59);
    }
    for (var kk63: i32 = 0; kk63 < 16; kk63 += 1) {
      let w64_0 = tile0_11[kk63 * 36 + (tid / 16) * 2 + 0 + 0];
      let w64_1 = tile0_11[kk63 * 36 + (tid / 16) * 2 + 0 + 1];
      let w65_0 = tile0_12[kk63 * 36 + (tid % 16) * 2 + 0 + 0];
      let w65_1 = tile0_12[kk63 * 36 + (tid % 16) * 2 + 0 + 1];
      c7 = fma(w64_0, w65_0, c7);
      c8 = fma(w64_0, w65_1, c8);
      c9 = fma(w64_1, w65_0, c9);
      c10 = fma(w64_1, w65_1, c10);
    }
  }
  let n66 = (n6 + (tid % 16) * 2 + 0) / 2;
  let g67 = (n66 < 35);
  let v68 = (n66 * 2i);
  let v69 = (v68 + 0i);
  var w70_0: f32 = 0.0f;
  if (g67) { w70_0 = b2[v69 + 0]; }
  var w70_1: f32 = 0.0f;
  if (g67) { w70_1 = b2[v69 + 1]; }
  let x71 = w70_0;
  let x72 = w70_1;
  let m73 = m5 + (tid / 16) * 2 + 0;
  let g74 = (m73 < 100);
  let v75 = (c7 + x71);
  let v76 = select(0.0f, v75, ((0.0f < v75) || nl_is_nan(v75)));
  let v77 = (c8 + x72);
  let v78 = select(0.0f, v77, ((0.0f < v77) || nl_is_nan(v77)));
  let v79 = (m73 * 70i);
  let v80 = (n66 * 2i);
  let v81 = (v79 + v80);
  let v82 = (v81 + 0i);
  if ((g67 && g74)) {
    b3[v82 + 0] = v76;
    b3[v82 + 1] = v78;
  }
  let m84 = m5 + (tid / 16) * 2 + 1;
  let g85 = (m84 < 100);
  let v86 = (c9 + x71);
  let v87 = select(0.0f, v86, ((0.0f < v86) || nl_is_nan(v86)));
  let v88 = (c10 + x72);
  let v89 = select(0.0f, v88, ((0.0f < v88) || nl_is_nan(v88)));
  let v90 = (m84 * 70i);
  let v91 = (n66 * 2i);
  let v92 = (v90 + v91);
  let v93 = (v92 + 0i);
  if ((g67 && g85)) {
    b3[v93 + 0] = v87;
    b3[v93 + 1] = v89;
  }
}
