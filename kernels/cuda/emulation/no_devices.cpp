// What the library's own calls of the CUDA runtime reach in LOCKSTEP_CUDA=OFF builds: a machine without a device.
#include <cuda_runtime.h>

const char* cudaGetErrorName(cudaError_t) { return "cudaErrorNoDevice"; }
const char* cudaGetErrorString(cudaError_t) { return "built without CUDA"; }
cudaError_t cudaGetLastError() { return cudaSuccess; }

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t*, int) { return cudaErrorInvalidDevice; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t*, unsigned) { return cudaErrorInvalidDevice; }
cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaErrorInvalidDevice; }
cudaError_t cudaEventElapsedTime(float*, cudaEvent_t, cudaEvent_t) { return cudaErrorInvalidDevice; }
cudaError_t cudaEventQuery(cudaEvent_t) { return cudaErrorInvalidDevice; }
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaErrorInvalidDevice; }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaErrorInvalidDevice; }
cudaError_t cudaFreeAsync(void*, cudaStream_t) { return cudaErrorInvalidDevice; }
cudaError_t cudaFreeHost(void*) { return cudaErrorInvalidDevice; }
cudaError_t cudaGetDevice(int*) { return cudaErrorInvalidDevice; }
cudaError_t cudaGetDeviceCount(int*) { return cudaErrorInvalidDevice; }
cudaError_t cudaMallocAsync(void**, std::size_t, cudaStream_t) { return cudaErrorInvalidDevice; }
cudaError_t cudaMallocHost(void**, std::size_t) { return cudaErrorInvalidDevice; }
cudaError_t cudaMemcpyAsync(void*, const void*, std::size_t, cudaMemcpyKind, cudaStream_t) {
  return cudaErrorInvalidDevice;
}
cudaError_t cudaMemcpyPeerAsync(void*, int, const void*, int, std::size_t, cudaStream_t) {
  return cudaErrorInvalidDevice;
}
cudaError_t cudaMemGetInfo(std::size_t*, std::size_t*) { return cudaErrorInvalidDevice; }
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaErrorInvalidDevice; }
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaErrorInvalidDevice; }
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, std::size_t) { return cudaErrorInvalidDevice; }
cudaError_t cudaSetDevice(int) { return cudaErrorInvalidDevice; }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t*, unsigned, int) { return cudaErrorInvalidDevice; }
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaErrorInvalidDevice; }
cudaError_t cudaStreamQuery(cudaStream_t) { return cudaErrorInvalidDevice; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaErrorInvalidDevice; }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaErrorInvalidDevice; }
