#include <lockstep/kernels/cpu/onednn_utils.h>

#include <array>

#include <lockstep/core/base/check.h>

namespace lockstep::kernels::onednn {
namespace {

void check(dnnl_status_t status, const char* op) {
  LOCKSTEP_CHECK(status != dnnl_out_of_memory, OutOfMemoryError, op, "oneDNN ran out of memory");
  LOCKSTEP_CHECK(status == dnnl_success, Error, op, "oneDNN failed with status {}", static_cast<int>(status));
}

/// The memory objects of one call. The C interface is used because the C++ one builds a hash map and two vectors per
/// call.
class Memories {
 public:
  Memories(const char* op, std::initializer_list<Argument> arguments) {
    for (const Argument& argument : arguments) {
      if (argument.data == nullptr) continue;
      dnnl_memory_t memory = nullptr;
      check(dnnl_memory_create(&memory, &argument.desc.data, engine().get(), const_cast<void*>(argument.data)), op);
      list_[static_cast<std::size_t>(count_++)] = {argument.index, memory};
    }
  }
  ~Memories() {
    for (int i = 0; i < count_; ++i) dnnl_memory_destroy(list_[static_cast<std::size_t>(i)].memory);
  }
  Memories(const Memories&) = delete;
  Memories& operator=(const Memories&) = delete;

  int count() const { return count_; }
  const dnnl_exec_arg_t* data() const { return list_.data(); }

 private:
  std::array<dnnl_exec_arg_t, 8> list_{};
  int count_ = 0;
};

}  // namespace

const dnnl::engine& engine() {
  static const dnnl::engine instance(dnnl::engine::kind::cpu, 0);
  return instance;
}

void execute(const char* op, const dnnl::primitive& primitive, std::initializer_list<Argument> arguments) {
  thread_local const dnnl::stream stream(engine());
  const Memories memories(op, arguments);
  check(dnnl_primitive_execute(primitive.get(), stream.get(), memories.count(), memories.data()), op);
}

void sgemm(bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k, const float* a,
           std::int64_t lda, const float* b, std::int64_t ldb, float beta, float* c, std::int64_t ldc) {
  check(dnnl_sgemm(transpose_a ? 'T' : 'N', transpose_b ? 'T' : 'N', m, n, k, 1.0f, a, lda, b, ldb, beta, c, ldc),
        "gemm");
}

}  // namespace lockstep::kernels::onednn
