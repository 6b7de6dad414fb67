extern "C" __global__ void __launch_bounds__(256) k_matmul_add_relu_100x70(const float* b0, const float* b1, const float* b2, float* b3) {
  __shared__ __align__(16) float tile0_11[576];
  __shared__ __align__(16) float tile0_12[576];
  const int tid = threadIdx.x;
  const int block = blockIdx.x;
  const int bn1 = block % 3;
  const int bz2 = block / 3;
  const int bm3 = bz2 % 4;
  const int bz4 = bz2 / 4;
  const int m5 = bm3 * 32;
  const int n6 = bn1 * 32;
  float c7 = 0.0f;
  float c8 = 0.0f;
  float c9 = 0.0f;
  float c10 = 0.0f;
  float a13 = 0.0f;
  float a14 = 0.0f;
  float b15 = 0.0f;
  float b16 = 0.0f;
  {
    const int i17 = m5 / 2 + (tid % 16);
    const int k18 = 0 + (tid / 16);
    const bool g19 = (i17 < 50) && (k18 < 33);
    const int v20 = k18 * 100;
    const int v21 = i17 * 2;
    const int v22 = v20 + v21;
    const int v23 = v22 + 0;
    float2 w24_0 = {};
    if (g19) w24_0 = *(const float2*)(b0 + v23);
    const float x25 = w24_0.x;
    const float x26 = w24_0.y;
    a13 = (g19 ? x25 : 0.0f);
    a14 = (g19 ? x26 : 0.0f);
    const int i27 = n6 + (tid / 16);
    const int k28 = 0 + (tid % 16);
    const bool g29 = (i27 < 70) && (k28 < 33);
    const int v30 = i27 * 33;
    const int v31 = v30 + k28;
    const float x32 = g29 ? b1[v31] : 0.0f;
    b15 = (g29 ? x32 : 0.0f);
    const int i33 = n6 + ((tid + 256) / 16);
    const int k34 = 0 + ((tid + 256) % 16);
    const bool g35 = (i33 < 70) && (k34 < 33);
    const int v36 = i33 * 33;
    const int v37 = v36 + k34;
    const float x38 = g35 ? b1[v37] : 0.0f;
    b16 = (g35 ? x38 : 0.0f);
  }
  for (int k39 = 0; k39 < 33; k39 += 16) {
    __syncthreads();
    tile0_11[(tid / 16) * 36 + (tid % 16) * 2 + 0] = a13;
    tile0_11[(tid / 16) * 36 + (tid % 16) * 2 + 1] = a14;
    tile0_12[((tid % 16) * 1 + 0) * 36 + (tid / 16)] = b15;
    tile0_12[(((tid + 256) % 16) * 1 + 0) * 36 + ((tid + 256) / 16)] = b16;
    __syncthreads();
    if (k39 + 16 < 33) {
      const int k40 = k39 + 16;
      const int i41 = m5 / 2 + (tid % 16);
      const int k42 = k40 + (tid / 16);
      const bool g43 = (i41 < 50) && (k42 < 33);
      const int v44 = k42 * 100;
      const int v45 = i41 * 2;
      const int v46 = v44 + v45;
      const int v47 = v46 + 0;
      float2 w48_0 = {};
      if (g43) w48_0 = *(const float2*)(b0 + v47);
      const float x49 = w48_0.x;
      const float x50 = w48_0.y;
      a13 = (g43 ? x49 : 0.0f);
      a14 = (g43 ? x50 : 0.0f);
      const int i51 = n6 + (tid / 16);
      const int k52 = k40 + (tid % 16);
      const bool g53 = (i51 < 70) && (k52 < 33);
      const int v54 = i51 * 33;
      const int v55 = v54 + k52;
      const float x56 = g53 ? b1[v55] : 0.0f;
      b15 = (g53 ? x56 : 0.0f);
      const int i57 = n6 + ((tid + 256) / 16);
      const int k58 = k40 + ((tid + 256) % 16);
      const bool g59 = (i57 < 70) && (k58 < 33);
      const int v60 = i57 * 33;
      const int v61 = v60 + k58;
      const float x62 = g59 ? b1[v61] : 0.0f;
      b16 = (g59 ? x62 : 0.0f);
    }
    #pragma unroll 16
    for (int kk63 = 0; kk63 < 16; kk63 += 1) {
      const float2 w64 = *(const float2*)(tile0_11 + kk63 * 36 + (tid / 16) * 2 + 0);
      const float2 w65 = *(const float2*)(tile0_12 + kk63 * 36 + (tid % 16) * 2 + 0);
      c7 = fmaf(w64.x, w65.x, c7);
      c8 = fmaf(w64.x, w65.y, c8);
      c9 = fmaf(w64.y, w65.x, c9);
      c10 = fmaf(w64.y, w65.y, c10);
    }
  }
  const int n66 = (n6 + (tid % 16) * 2 + 0) / 2;
  const bool g67 = n66 < 35;
  const int v68 = n66 * 2;
  const int v69 = v68 + 0;
  float2 w70_0 = {};
  if (g67) w70_0 = *(const float2*)(b2 + v69);
  const float x71 = w70_0.x;
  const float x72 = w70_0.y;
  const int m73 = m5 + (tid / 16) * 2 + 0;
  const bool g74 = m73 < 100;
  const float v75 = c7 + x71;
  const float v76 = ((0.0f < v75) || (v75 != v75)) ? v75 : 0.0f;
  const float v77 = c8 + x72;
  const float v78 = ((0.0f < v77) || (v77 != v77)) ? v77 : 0.0f;
  const int v79 = m73 * 70;
  const int v80 = n66 * 2;
  const int v81 = v79 + v80;
  const int v82 = v81 + 0;
  if ((g67 && g74)) {
    const float2 w83_0 = {v76, v78};
    *(float2*)(b3 + v82) = w83_0;
  }
  const int m84 = m5 + (tid / 16) * 2 + 1;
  const bool g85 = m84 < 100;
  const float v86 = c9 + x71;
  const float v87 = ((0.0f < v86) || (v86 != v86)) ? v86 : 0.0f;
  const float v88 = c10 + x72;
  const float v89 = ((0.0f < v88) || (v88 != v88)) ? v88 : 0.0f;
  const int v90 = m84 * 70;
  const int v91 = n66 * 2;
  const int v92 = v90 + v91;
  const int v93 = v92 + 0;
  if ((g67 && g85)) {
    const float2 w94_0 = {v87, v89};
    *(float2*)(b3 + v93) = w94_0;
  }
}
