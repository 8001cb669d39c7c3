// Matrix products on CUDA by cuBLASLt. The library stores matrices by columns: our C by rows is its Cᵀ, so it is asked
// for Cᵀ = op(B)ᵀ · op(A)ᵀ. How to compute a shape is asked of its heuristics once and remembered.
#include <lockstep/kernels/gemm.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <memory>
#include <mutex>
#include <type_traits>
#include <unordered_map>

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <lockstep/core/base/check.h>
#include <lockstep/core/base/cuda_check.h>
#include <lockstep/core/base/math_mode.h>
#include <lockstep/kernels/copy.h>
#include <lockstep/kernels/cuda/plan_cache.h>
#include <lockstep/kernels/elementwise.h>

#define LOCKSTEP_CUBLAS_CHECK(call)                                                                                    \
  do {                                                                                                                 \
    if (const cublasStatus_t lockstep_status = (call); lockstep_status != CUBLAS_STATUS_SUCCESS) {                     \
      ::lockstep::detail::fail<::lockstep::DeviceError>("cublasLt", "expected {} to succeed ({}:{}), got {}", #call,   \
                                                        __FILE__, __LINE__, cublasLtGetStatusString(lockstep_status)); \
    }                                                                                                                  \
  } while (false)

namespace lockstep::kernels {
namespace {

/// What an algorithm may use; NVIDIA's advice for Hopper. Memory of the stream's pool for the time of the call.
constexpr std::size_t kMaxWorkspace = std::size_t{32} << 20;

template <class T>
constexpr cudaDataType_t kDataType = CUDA_R_32F;
template <>
constexpr cudaDataType_t kDataType<float16> = CUDA_R_16F;
template <>
constexpr cudaDataType_t kDataType<bfloat16> = CUDA_R_16BF;

/// Everything that the choice of an algorithm depends on, in the library's terms.
struct Key {
  std::int64_t m, n, k, lda, ldb, ldc;
  std::int64_t device;
  std::int32_t type;
  std::uint32_t alignments[4];  ///< of A, B, C and the bias, 0 without one
  bool transpose_a, transpose_b, add, tf32;
  std::int64_t relu;

  bool operator==(const Key&) const = default;
};

struct Plan {
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;
  cublasLtMatmulAlgo_t algorithm{};
  std::size_t workspace = 0;
  std::mutex bias_mutex;  ///< the pointer to the bias is part of `operation`

  Plan() = default;
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  ~Plan() {
    if (a) cublasLtMatrixLayoutDestroy(a);
    if (b) cublasLtMatrixLayoutDestroy(b);
    if (c) cublasLtMatrixLayoutDestroy(c);
    if (operation) cublasLtMatmulDescDestroy(operation);
  }
};

/// One for each device, for all threads, until the process ends.
cublasLtHandle_t handle_of(int device) {
  static std::mutex mutex;
  static auto& handles = *new std::unordered_map<int, cublasLtHandle_t>;
  const std::lock_guard lock(mutex);
  cublasLtHandle_t& handle = handles[device];
  if (!handle) LOCKSTEP_CUBLAS_CHECK(cublasLtCreate(&handle));
  return handle;
}

template <class Value>
void set(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute, Value value) {
  LOCKSTEP_CUBLAS_CHECK(cublasLtMatmulDescSetAttribute(operation, attribute, &value, sizeof value));
}

/// The matrix as stored: `rows` × `columns`, swapped if it is to be transposed.
cublasLtMatrixLayout_t layout(const Key& key, bool transposed, std::int64_t rows, std::int64_t columns,
                              std::int64_t stride) {
  if (transposed) std::swap(rows, columns);
  cublasLtMatrixLayout_t made = nullptr;
  LOCKSTEP_CUBLAS_CHECK(cublasLtMatrixLayoutCreate(&made, static_cast<cudaDataType_t>(key.type),
                                                   static_cast<std::uint64_t>(rows),
                                                   static_cast<std::uint64_t>(columns), stride));
  return made;
}

std::shared_ptr<Plan> make_plan(const Key& key) {
  auto plan = std::make_shared<Plan>();
  LOCKSTEP_CUBLAS_CHECK(cublasLtMatmulDescCreate(
      &plan->operation, key.tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F, CUDA_R_32F));
  set(plan->operation, CUBLASLT_MATMUL_DESC_TRANSA, key.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(plan->operation, CUBLASLT_MATMUL_DESC_TRANSB, key.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
  constexpr cublasLtEpilogue_t kEpilogues[2][2] = {{CUBLASLT_EPILOGUE_DEFAULT, CUBLASLT_EPILOGUE_BIAS},
                                                   {CUBLASLT_EPILOGUE_RELU, CUBLASLT_EPILOGUE_RELU_BIAS}};
  set(plan->operation, CUBLASLT_MATMUL_DESC_EPILOGUE, kEpilogues[key.relu][key.alignments[3] != 0]);
  plan->a = layout(key, key.transpose_a, key.m, key.k, key.lda);
  plan->b = layout(key, key.transpose_b, key.k, key.n, key.ldb);
  plan->c = layout(key, false, key.m, key.n, key.ldc);

  cublasLtMatmulPreference_t made = nullptr;
  LOCKSTEP_CUBLAS_CHECK(cublasLtMatmulPreferenceCreate(&made));
  const std::unique_ptr<std::remove_pointer_t<cublasLtMatmulPreference_t>,
                        cublasStatus_t (*)(cublasLtMatmulPreference_t)>
      preference(made, cublasLtMatmulPreferenceDestroy);
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    LOCKSTEP_CUBLAS_CHECK(cublasLtMatmulPreferenceSetAttribute(made, attribute, &value, sizeof value));
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::uint64_t{kMaxWorkspace});
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key.alignments[0]);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key.alignments[1]);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key.alignments[2]);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key.alignments[2]);
  // Where k is split, the parts are added up as floats, whatever the type of the elements.
  prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, std::uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
  cublasLtMatmulHeuristicResult_t result{};
  int found = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(handle_of(static_cast<int>(key.device)), plan->operation, plan->a, plan->b,
                                     plan->c, plan->c, made, 1, &result, &found);
  LOCKSTEP_CHECK(
      status == CUBLAS_STATUS_SUCCESS && found == 1, DeviceError, "cublasLt",
      "expected a way to multiply {} × {} by {} × {} (row strides {}, {}, {}; pointers aligned to {}, {}, {} "
      "bytes), got {}",
      key.n, key.k, key.k, key.m, key.ldb, key.lda, key.ldc, key.alignments[1], key.alignments[0], key.alignments[2],
      cublasLtGetStatusString(status));
  plan->algorithm = result.algo;
  plan->workspace = result.workspaceSize;
  return plan;
}

/// The largest power of two, at most 256, that divides the address; 0 for null.
std::uint32_t alignment(const void* pointer) {
  const auto address = reinterpret_cast<std::uintptr_t>(pointer);
  return address == 0 ? 0 : 1u << std::min(std::countr_zero(address), 8);
}

/// C = op(A) · op(B) + beta · C, + bias on each row unless null, then its ReLU if asked for. m, n, k ≥ 1.
template <class T>
void multiply(CudaStream stream, bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k,
              const T* a, std::int64_t lda, const T* b, std::int64_t ldb, float beta, T* c, std::int64_t ldc,
              const T* bias, bool relu) {
  static auto& plans = *new cuda::PlanCache<Key, Plan>;
  Key key{};
  key.m = n, key.n = m, key.k = k, key.lda = ldb, key.ldb = lda, key.ldc = ldc;
  const int device = cuda::current_device();
  key.device = device;
  key.type = kDataType<T>;
  key.alignments[0] = alignment(b);
  key.alignments[1] = alignment(a);
  key.alignments[2] = alignment(c);
  key.alignments[3] = alignment(bias);
  key.transpose_a = transpose_b, key.transpose_b = transpose_a;
  key.add = beta != 0;
  key.relu = relu;
  key.tf32 = std::is_same_v<T, float> && is_tf32_allowed();
  const auto plan = plans.find_or_make(key, make_plan);

  const cuda::StreamMemory workspace(stream, plan->workspace);
  std::unique_lock lock(plan->bias_mutex, std::defer_lock);
  if (bias) {
    lock.lock();
    set(plan->operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, static_cast<const void*>(bias));
  }
  const float alpha = 1;
  LOCKSTEP_CUBLAS_CHECK(cublasLtMatmul(handle_of(device), plan->operation, &alpha, b, plan->a, a, plan->b, &beta, c,
                                       plan->c, c, plan->c, &plan->algorithm, workspace.data(), plan->workspace,
                                       stream));
}

}  // namespace

template <class T>
void gemm(CudaStream stream, bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k,
          const T* a, std::int64_t lda, const T* b, std::int64_t ldb, Compute<T> beta, T* c, std::int64_t ldc) {
  if (m == 0 || n == 0) return;
  if (k > 0) {
    multiply<T>(stream, transpose_a, transpose_b, m, n, k, a, lda, b, ldb, beta, c, ldc, nullptr, false);
  } else if (beta == 0) {
    LOCKSTEP_CUDA_CHECK(cudaMemset2DAsync(c, static_cast<std::size_t>(ldc) * sizeof(T), 0,
                                          static_cast<std::size_t>(n) * sizeof(T), static_cast<std::size_t>(m),
                                          stream));
  }
}

template <class T>
void linear_forward(CudaStream stream, std::int64_t rows, std::int64_t out, std::int64_t in, const T* x, const T* w,
                    const T* bias, bool relu, T* y) {
  if (rows == 0 || out == 0) return;
  if (in > 0) {
    multiply<T>(stream, false, true, rows, out, in, x, in, w, in, 0.0f, y, out, bias, relu);
  } else if (bias) {
    copy_strided(stream, {.rank = 2, .sizes = {rows, out}, .source_strides = {0, 1}, .target_strides = {out, 1}},
                 sizeof(T), bias, y);
    if (relu) unary_forward<T>(stream, UnaryOp::relu, rows * out, y, y);
  } else {
    LOCKSTEP_CUDA_CHECK(cudaMemsetAsync(y, 0, static_cast<std::size_t>(rows * out) * sizeof(T), stream));
  }
}

#define LOCKSTEP_INSTANTIATE(T)                                                                                       \
  template void gemm<T>(CudaStream, bool, bool, std::int64_t, std::int64_t, std::int64_t, const T*, std::int64_t,     \
                        const T*, std::int64_t, float, T*, std::int64_t);                                             \
  template void linear_forward<T>(CudaStream, std::int64_t, std::int64_t, std::int64_t, const T*, const T*, const T*, \
                                  bool, T*);
LOCKSTEP_INSTANTIATE(float)
LOCKSTEP_INSTANTIATE(float16)
LOCKSTEP_INSTANTIATE(bfloat16)

}  // namespace lockstep::kernels
