fn nl_is_nan(x: f32) -> bool { return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u; }
@group(0) @binding(0) var<storage, read_write> b0: array<f32>;
@group(0) @binding(1) var<storage, read_write> b1: array<f32>;
@group(0) @binding(2) var<storage, read_write> b2: array<f32>;
@group(0) @binding(3) var<storage, read_write> b3: array<f32>;
var<workgroup> tile0_11: array<f32, 1152>;
var<workgroup> tile0_12: array<f32, 1152>;
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
  var a15: f32 = 0.0f;
  var a16: f32 = 0.0f;
  var b17: f32 = 0.0f;
  var b18: f32 = 0.0f;
  var b19: f32 = 0.0f;
  var b20: f32 = 0.0f;
  {
    let i21 = m5 / 4 + (tid % 8);
    let k22 = 0 + (tid / 8);
    let g23 = ((i21 < 25) && (k22 < 33));
    let v24 = (k22 * 100i);
    let v25 = (i21 * 4i);
    let v26 = (v24 + v25);
    let v27 = (v26 + 0i);
    var w28_0: f32 = 0.0f;
    if (g23) { w28_0 = b0[v27 + 0]; }
    var w28_1: f32 = 0.0f;
    if (g23) { w28_1 = b0[v27 + 1]; }
    var w28_2: f32 = 0.0f;
    if (g23) { w28_2 = b0[v27 + 2]; }
    var w28_3: f32 = 0.0f;
    if (g23) { w28_3 = b0[v27 + 3]; }
    let x29 = w28_0;
    let x30 = w28_1;
    let x31 = w28_2;
    let x32 = w28_3;
    a13 = select(0.0f, x29, g23);
    a14 = select(0.0f, x30, g23);
    a15 = select(0.0f, x31, g23);
    a16 = select(0.0f, x32, g23);
    let i33 = n6 + (tid / 32);
    let k34 = 0 + (tid % 32);
    let g35 = ((i33 < 70) && (k34 < 33));
    let v36 = (i33 * 33i);
    let v37 = (v36 + k34);
    var x38: f32 = 0.0f; if (g35) { x38 = b1[v37]; }
    b17 = select(0.0f, x38, g35);
    let i39 = n6 + ((tid + 256) / 32);
    let k40 = 0 + ((tid + 256) % 32);
    let g41 = ((i39 < 70) && (k40 < 33));
    let v42 = (i39 * 33i);
    let v43 = (v42 + k40);
    var x44: f32 = 0.0f; if (g41) { x44 = b1[v43]; }
    b18 = select(0.0f, x44, g41);
    let i45 = n6 + ((tid + 512) / 32);
    let k46 = 0 + ((tid + 512) % 32);
    let g47 = ((i45 < 70) && (k46 < 33));
    let v48 = (i45 * 33i);
    let v49 = (v48 + k46);
    var x50: f32 = 0.0f; if (g47) { x50 = b1[v49]; }
    b19 = select(0.0f, x50, g47);
    let i51 = n6 + ((tid + 768) / 32);
    let k52 = 0 + ((tid + 768) % 32);
    let g53 = ((i51 < 70) && (k52 < 33));
    let v54 = (i51 * 33i);
    let v55 = (v54 + k52);
    var x56: f32 = 0.0f; if (g53) { x56 = b1[v55]; }
    b20 = select(0.0f, x56, g53);
  }
  for (var k57: i32 = 0; k57 < 33; k57 += 32) {
    workgroupBarrier();
    tile0_11[(tid / 8) * 36 + (tid % 8) * 4 + 0] = a13;
    tile0_11[(tid / 8) * 36 + (tid % 8) * 4 + 1] = a14;
    tile0_11[(tid / 8) * 36 + (tid % 8) * 4 + 2] = a15;
    tile0_11[(tid / 8) * 36 + (tid % 8) * 4 + 3] = a16;
    tile0_12[((tid % 32) * 1 + 0) * 36 + (tid / 32)] = b17;
    tile0_12[(((tid + 256) % 32) * 1 + 0) * 36 + ((tid + 256) / 32)] = b18;
    tile0_12[(((tid + 512) % 32) * 1 + 0) * 36 + ((tid + 512) / 32)] = b19;
    tile0_12[(((tid + 768) % 32) * 1 + 0) * 36 + ((tid + 768) / 32)] = b20;
    workgroupBarrier();
    if (k57 + 32 < 33) {
      let k58 = k57 + 32;
      let i59 = m5 / 4 + (tid % 8);
      let k60 = k58 + (tid / 8);
      let g61 = ((i59 < 25) && (k60 < 33));
      let v62 = (k60 * 100i);
      let v63 = (i59 * 4i);
      let v64 = (v62 + v63);
      let v65 = (v64 + 0i);
      var w66_0: f32 = 0.0f;
      if (g61) { w66_0 = b0[v65 + 0]; }
      var w66_1: f32 = 0.0f;
      if (g61) { w66_1 = b0[v65 + 1]; }
      var w66_2: f32 = 0.0f;
      if (g61) { w66_2 = b0[v65 + 2]; }
      var w66_3: f32 = 0.0f;
      if (g61) { w66_3 = b0[v65 + 3]; }
      let x67 = w66_0;
      let x68 = w66_1;
      let x69 = w66_2;
      let x70 = w66_3;
      a13 = select(0.0f, x67, g61);
      a14 = select(0.0f, x68, g61);
      a15 = select(0.0f, x69, g61);
      a16 = select(0.0f, x70, g61);
      let i71 = n6 + (tid / 32);
      let k72 = k58 + (tid % 32);
      let g73 = ((i71 < 70) && (k72 < 33));
      let v74 = (i71 * 33i);
      let v75 = (v74 + k72);
      var x76: f32 = 0.0f; if (g73) { x76 = b1[v75]; }
      b17 = select(0.0f, x76, g73);
      let i77 = n6 + ((tid + 256) / 32);
      let k78 = k58 + ((tid + 256) % 32);
      let g79 = ((i77 < 70) && (k78 < 33));
      let v80 = (i77 * 33i);
      let v81 = (v80 + k78);
      var x82: f32 = 0.0f; if (g79) { x82 = b1[v81]; }
      b18 = select(0.0f, x82, g79);
      let i83 = n6 + ((tid + 512) / 32);
      let k84 = k58 + ((tid + 512) % 32);
      let g85 = ((i83 < 70) && (k84 < 33));
      let v86 = (i83 * 33i);
      let v87 = (v86 + k84);
      var x88: f32 = 0.0f; if (g85) { x88 = b1[v87]; }
      b19 = select(0.0f, x88, g85);
      let i89 = n6 + ((tid + 768) / 32);
      let k90 = k58 + ((tid + 768) % 32);
      let g91 = ((i89 < 70) && (k90 < 33));
      let v92 = (i89 * 33i);
      let v93 = (v92 + k90);
      var x94: f32 = 0.0f; if (g91) { x94 = b1[v93]; }
      b20 = select(0.0f, x94, g91);
    }
    for (var kk95: i32 = 0; kk95 < 32; kk95 += 1) {
      let w96_0 = tile0_11[kk95 * 36 + (tid / 16) * 2 + 0 + 0];
      let w96_1 = tile0_11[kk95 * 36 + (tid / 16) * 2 + 0 + 1];
      let w97_0 = tile0_12[kk95 * 36 + (tid % 16) * 2 + 0 + 0];
      let w97_1 = tile0_12[kk95 * 36 + (tid % 16) * 2 + 0 + 1];
      c7 = fma(w96_0, w97_0, c7);
      c8 = fma(w96_0, w97_1, c8);
      c9 = fma(w96_1, w97_0, c9);
      c10 = fma(w96_1, w97_1, c10);
    }
  }
  let n98 = (n6 + (tid % 16) * 2 + 0) / 2;
  let g99 = (n98 < 35);
  let v100 = (n98 * 2i);
  let v101 = (v100 + 0i);
  var w102_0: f32 = 0.0f;
  if (g99) { w102_0 = b2[v101 + 0]; }
  var w102_1: f32 = 0.0f;
  if (g99) { w102_1 = b2[v101 + 1]; }
  let x103 = w102_0;
  let x104 = w102_1;
  let m105 = m5 + (tid / 16) * 2 + 0;
  let g106 = (m105 < 100);
  let v107 = (c7 + x103);
  let v108 = select(0.0f, v107, ((0.0f < v107) || nl_is_nan(v107)));
  let v109 = (c8 + x104);
  let v110 = select(0.0f, v109, ((0.0f < v109) || nl_is_nan(v109)));
  let v111 = (m105 * 70i);
  let v112 = (n98 * 2i);
  let v113 = (v111 + v112);
  let v114 = (v113 + 0i);
  if ((g99 && g106)) {
    b3[v114 + 0] = v108;
    b3[v114 + 1] = v110;
  }
  let m116 = m5 + (tid / 16) * 2 + 1;
  let g117 = (m116 < 100);
  let v118 = (c9 + x103);
  let v119 = select(0.0f, v118, ((0.0f < v118) || nl_is_nan(v118)));
  let v120 = (c10 + x104);
  let v121 = select(0.0f, v120, ((0.0f < v120) || nl_is_nan(v120)));
  let v122 = (m116 * 70i);
  let v123 = (n98 * 2i);
  let v124 = (v122 + v123);
  let v125 = (v124 + 0i);
  if ((g99 && g117)) {
    b3[v125 + 0] = v119;
    b3[v125 + 1] = v121;
  }
}
