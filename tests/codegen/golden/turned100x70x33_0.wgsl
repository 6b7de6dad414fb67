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
  let bz1 = (block / 12);
  let place2 = (block % 12);
  let bm3 = (place2 / 3);
  let bn4 = (place2 % 3);
  let m5 = bm3 * 32;
  let n6 = bn4 * 32;
  var c7: f32 = 0.0f;
  var c8: f32 = 0.0f;
  var c9: f32 = 0.0f;
  var c10: f32 = 0.0f;
  let i13 = m5 / 4 + (tid % 8);
  let g14 = (i13 < 25);
  let k15 = (tid / 8);
  var a16: f32 = 0.0f;
  var a17: f32 = 0.0f;
  var a18: f32 = 0.0f;
  var a19: f32 = 0.0f;
  let i20 = n6 + (tid / 32);
  let g21 = (i20 < 70);
  let k22 = (tid % 32);
  let i23 = n6 + ((tid + 256) / 32);
  let g24 = (i23 < 70);
  let k25 = ((tid + 256) % 32);
  let i26 = n6 + ((tid + 512) / 32);
  let g27 = (i26 < 70);
  let k28 = ((tid + 512) % 32);
  let i29 = n6 + ((tid + 768) / 32);
  let g30 = (i29 < 70);
  let k31 = ((tid + 768) % 32);
  var b32: f32 = 0.0f;
  var b33: f32 = 0.0f;
  var b34: f32 = 0.0f;
  var b35: f32 = 0.0f;
  let v39 = (i13 * 4i);
  let v49 = (i20 * 33i);
  let v54 = (i23 * 33i);
  let v59 = (i26 * 33i);
  let v64 = (i29 * 33i);
  {
    let k36 = 0 + k15;
    let g37 = (k36 < 33);
    let v38 = (k36 * 100i);
    let v40 = (v38 + v39);
    let v41 = (v40 + 0i);
    var w42_0: f32 = 0.0f;
    if ((g37 && g14)) { w42_0 = b0[v41 + 0]; }
    var w42_1: f32 = 0.0f;
    if ((g37 && g14)) { w42_1 = b0[v41 + 1]; }
    var w42_2: f32 = 0.0f;
    if ((g37 && g14)) { w42_2 = b0[v41 + 2]; }
    var w42_3: f32 = 0.0f;
    if ((g37 && g14)) { w42_3 = b0[v41 + 3]; }
    let x43 = w42_0;
    let x44 = w42_1;
    let x45 = w42_2;
    let x46 = w42_3;
    a16 = x43;
    a17 = x44;
    a18 = x45;
    a19 = x46;
    let k47 = 0 + k22;
    let g48 = (k47 < 33);
    let v50 = (v49 + k47);
    var x51: f32 = 0.0f; if ((g48 && g21)) { x51 = b1[v50]; }
    b32 = x51;
    let k52 = 0 + k25;
    let g53 = (k52 < 33);
    let v55 = (v54 + k52);
    var x56: f32 = 0.0f; if ((g53 && g24)) { x56 = b1[v55]; }
    b33 = x56;
    let k57 = 0 + k28;
    let g58 = (k57 < 33);
    let v60 = (v59 + k57);
    var x61: f32 = 0.0f; if ((g58 && g27)) { x61 = b1[v60]; }
    b34 = x61;
    let k62 = 0 + k31;
    let g63 = (k62 < 33);
    let v65 = (v64 + k62);
    var x66: f32 = 0.0f; if ((g63 && g30)) { x66 = b1[v65]; }
    b35 = x66;
  }
  for (var k67: i32 = 0; k67 < 33; k67 += 32) {
    workgroupBarrier();
    tile0_11[(tid / 8) * 36 + (tid % 8) * 4 + 0] = a16;
    tile0_11[(tid / 8) * 36 + (tid % 8) * 4 + 1] = a17;
    tile0_11[(tid / 8) * 36 + (tid % 8) * 4 + 2] = a18;
    tile0_11[(tid / 8) * 36 + (tid % 8) * 4 + 3] = a19;
    tile0_12[((tid % 32) * 1 + 0) * 36 + (tid / 32)] = b32;
    tile0_12[(((tid + 256) % 32) * 1 + 0) * 36 + ((tid + 256) / 32)] = b33;
    tile0_12[(((tid + 512) % 32) * 1 + 0) * 36 + ((tid + 512) / 32)] = b34;
    tile0_12[(((tid + 768) % 32) * 1 + 0) * 36 + ((tid + 768) / 32)] = b35;
    workgroupBarrier();
    if (k67 + 32 < 33) {
      let k68 = k67 + 32;
      let k69 = k68 + k15;
      let g70 = (k69 < 33);
      let v71 = (k69 * 100i);
      let v72 = (v71 + v39);
      let v73 = (v72 + 0i);
      var w74_0: f32 = 0.0f;
      if ((g70 && g14)) { w74_0 = b0[v73 + 0]; }
      var w74_1: f32 = 0.0f;
      if ((g70 && g14)) { w74_1 = b0[v73 + 1]; }
      var w74_2: f32 = 0.0f;
      if ((g70 && g14)) { w74_2 = b0[v73 + 2]; }
      var w74_3: f32 = 0.0f;
      if ((g70 && g14)) { w74_3 = b0[v73 + 3]; }
      let x75 = w74_0;
      let x76 = w74_1;
      let x77 = w74_2;
      let x78 = w74_3;
      a16 = x75;
      a17 = x76;
      a18 = x77;
      a19 = x78;
      let k79 = k68 + k22;
      let g80 = (k79 < 33);
      let v81 = (v49 + k79);
      var x82: f32 = 0.0f; if ((g80 && g21)) { x82 = b1[v81]; }
      b32 = x82;
      let k83 = k68 + k25;
      let g84 = (k83 < 33);
      let v85 = (v54 + k83);
      var x86: f32 = 0.0f; if ((g84 && g24)) { x86 = b1[v85]; }
      b33 = x86;
      let k87 = k68 + k28;
      let g88 = (k87 < 33);
      let v89 = (v59 + k87);
      var x90: f32 = 0.0f; if ((g88 && g27)) { x90 = b1[v89]; }
      b34 = x90;
      let k91 = k68 + k31;
      let g92 = (k91 < 33);
      let v93 = (v64 + k91);
      var x94: f32 = 0.0f; if ((g92 && g30)) { x94 = b1[v93]; }
      b35 = x94;
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
