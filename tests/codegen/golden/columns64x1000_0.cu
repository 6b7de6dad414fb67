extern "C" __global__ void __launch_bounds__(256) k_reduce_sum_1000(const float* b0, float* b1) {
  __shared__ __align__(16) float shared0_9[256];
  const int tid = threadIdx.x;
  const int block = blockIdx.x;
  const int u1 = block * 16 + (tid % 16);
  const bool live2 = u1 < 1000;
  const int u3 = live2 ? u1 : 999;
  float a4 = 0.0f;
  #pragma unroll 4
  for (int j5 = (tid / 16); j5 < 64; j5 += 16) {
    const int v6 = j5 * 1000;
    const int v7 = v6 + u3;
    const float x8 = b0[v7];
    a4 = (a4 + x8);
  }
  shared0_9[tid] = a4;
  __syncthreads();
  const float v10 = shared0_9[(tid % 16) + 0];
  const float v11 = shared0_9[(tid % 16) + 16];
  const float v12 = v10 + v11;
  const float v13 = shared0_9[(tid % 16) + 32];
  const float v14 = v12 + v13;
  const float v15 = shared0_9[(tid % 16) + 48];
  const float v16 = v14 + v15;
  const float v17 = shared0_9[(tid % 16) + 64];
  const float v18 = v16 + v17;
  const float v19 = shared0_9[(tid % 16) + 80];
  const float v20 = v18 + v19;
  const float v21 = shared0_9[(tid % 16) + 96];
  const float v22 = v20 + v21;
  const float v23 = shared0_9[(tid % 16) + 112];
  const float v24 = v22 + v23;
  const float v25 = shared0_9[(tid % 16) + 128];
  const float v26 = v24 + v25;
  const float v27 = shared0_9[(tid % 16) + 144];
  const float v28 = v26 + v27;
  const float v29 = shared0_9[(tid % 16) + 160];
  const float v30 = v28 + v29;
  const float v31 = shared0_9[(tid % 16) + 176];
  const float v32 = v30 + v31;
  const float v33 = shared0_9[(tid % 16) + 192];
  const float v34 = v32 + v33;
  const float v35 = shared0_9[(tid % 16) + 208];
  const float v36 = v34 + v35;
  const float v37 = shared0_9[(tid % 16) + 224];
  const float v38 = v36 + v37;
  const float v39 = shared0_9[(tid % 16) + 240];
  const float v40 = v38 + v39;
  if ((live2 && ((tid / 16) == 0))) {
    b1[u3] = v40;
  }
}
