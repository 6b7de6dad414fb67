extern "C" __global__ void __launch_bounds__(256) k_reduce_max_subtract_multiply_64x1000(const float* b0, float* b1) {
  __shared__ __align__(16) float shared0_33[8];
  __shared__ __align__(16) float shared0_66[8];
  const int tid = threadIdx.x;
  const int block = blockIdx.x;
  const int u1 = block * 2 + (tid / 128);
  const int j2 = tid & 127;
  const int j3 = (tid & 127) + 128;
  const bool g4 = j3 < 250;
  float a5 = __int_as_float(0xff800000);
  const int v6 = u1 * 1000;
  const int v7 = j2 * 4;
  const int v8 = v6 + v7;
  const int v9 = v8 + 0;
  const float4 w10_0 = *(const float4*)(b0 + v9);
  const float x11 = w10_0.x;
  const float x12 = w10_0.y;
  const float x13 = w10_0.z;
  const float x14 = w10_0.w;
  a5 = (((x11 < a5) || (a5 != a5)) ? a5 : x11);
  a5 = (((x12 < a5) || (a5 != a5)) ? a5 : x12);
  a5 = (((x13 < a5) || (a5 != a5)) ? a5 : x13);
  a5 = (((x14 < a5) || (a5 != a5)) ? a5 : x14);
  const int v15 = j3 * 4;
  const int v16 = v6 + v15;
  const int v17 = v16 + 0;
  float4 w18_0 = {};
  if (g4) w18_0 = *(const float4*)(b0 + v17);
  const float x19 = w18_0.x;
  const float x20 = w18_0.y;
  const float x21 = w18_0.z;
  const float x22 = w18_0.w;
  if (g4) {
    a5 = (((x19 < a5) || (a5 != a5)) ? a5 : x19);
  }
  if (g4) {
    a5 = (((x20 < a5) || (a5 != a5)) ? a5 : x20);
  }
  if (g4) {
    a5 = (((x21 < a5) || (a5 != a5)) ? a5 : x21);
  }
  if (g4) {
    a5 = (((x22 < a5) || (a5 != a5)) ? a5 : x22);
  }
  const float v23 = __shfl_xor_sync(0xffffffffu, a5, 16);
  const float v24 = ((v23 < a5) || (a5 != a5)) ? a5 : v23;
  const float v25 = __shfl_xor_sync(0xffffffffu, v24, 8);
  const float v26 = ((v25 < v24) || (v24 != v24)) ? v24 : v25;
  const float v27 = __shfl_xor_sync(0xffffffffu, v26, 4);
  const float v28 = ((v27 < v26) || (v26 != v26)) ? v26 : v27;
  const float v29 = __shfl_xor_sync(0xffffffffu, v28, 2);
  const float v30 = ((v29 < v28) || (v28 != v28)) ? v28 : v29;
  const float v31 = __shfl_xor_sync(0xffffffffu, v30, 1);
  const float v32 = ((v31 < v30) || (v30 != v30)) ? v30 : v31;
  if ((tid & 31) == 0) {
    shared0_33[tid / 32] = v32;
  }
  __syncthreads();
  const float v34 = shared0_33[tid / 128 * 4 + (tid & 3)];
  const float v35 = __shfl_xor_sync(0xffffffffu, v34, 2);
  const float v36 = ((v35 < v34) || (v34 != v34)) ? v34 : v35;
  const float v37 = __shfl_xor_sync(0xffffffffu, v36, 1);
  const float v38 = ((v37 < v36) || (v36 != v36)) ? v36 : v37;
  float a39 = 0.0f;
  const float v40 = x11 - v38;
  const float v41 = expf(v40);
  a39 = (a39 + v41);
  const float v42 = x12 - v38;
  const float v43 = expf(v42);
  a39 = (a39 + v43);
  const float v44 = x13 - v38;
  const float v45 = expf(v44);
  a39 = (a39 + v45);
  const float v46 = x14 - v38;
  const float v47 = expf(v46);
  a39 = (a39 + v47);
  const float v48 = x19 - v38;
  const float v49 = expf(v48);
  if (g4) {
    a39 = (a39 + v49);
  }
  const float v50 = x20 - v38;
  const float v51 = expf(v50);
  if (g4) {
    a39 = (a39 + v51);
  }
  const float v52 = x21 - v38;
  const float v53 = expf(v52);
  if (g4) {
    a39 = (a39 + v53);
  }
  const float v54 = x22 - v38;
  const float v55 = expf(v54);
  if (g4) {
    a39 = (a39 + v55);
  }
  const float v56 = __shfl_xor_sync(0xffffffffu, a39, 16);
  const float v57 = a39 + v56;
  const float v58 = __shfl_xor_sync(0xffffffffu, v57, 8);
  const float v59 = v57 + v58;
  const float v60 = __shfl_xor_sync(0xffffffffu, v59, 4);
  const float v61 = v59 + v60;
  const float v62 = __shfl_xor_sync(0xffffffffu, v61, 2);
  const float v63 = v61 + v62;
  const float v64 = __shfl_xor_sync(0xffffffffu, v63, 1);
  const float v65 = v63 + v64;
  if ((tid & 31) == 0) {
    shared0_66[tid / 32] = v65;
  }
  __syncthreads();
  const float v67 = shared0_66[tid / 128 * 4 + (tid & 3)];
  const float v68 = __shfl_xor_sync(0xffffffffu, v67, 2);
  const float v69 = v67 + v68;
  const float v70 = __shfl_xor_sync(0xffffffffu, v69, 1);
  const float v71 = v69 + v70;
  const float v72 = 1.0f / v71;
  const float v73 = v41 * v72;
  const float v74 = v43 * v72;
  const float v75 = v45 * v72;
  const float v76 = v47 * v72;
  const float v77 = v49 * v72;
  const float v78 = v51 * v72;
  const float v79 = v53 * v72;
  const float v80 = v55 * v72;
  const float4 w81_0 = {v73, v74, v75, v76};
  *(float4*)(b1 + v9) = w81_0;
  if (g4) {
    const float4 w82_0 = {v77, v78, v79, v80};
    *(float4*)(b1 + v17) = w82_0;
  }
}
