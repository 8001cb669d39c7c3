// What normalisation, dropout, softmax and losses must give, by the plainest loops over float64 values, sharing nothing
// with the library but its options and the Philox generator. Results are row-major.
#pragma once

#include <cstdint>
#include <utility>

#include <lockstep/core/ops.h>

namespace lockstep::test::reference {

/// running_mean and running_var after the batch x.
std::pair<Tensor, Tensor> running_statistics(const Tensor& x, const Tensor& running_mean, const Tensor& running_var,
                                             double momentum);
/// With `residual` added where it is defined.
Tensor batch_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& running_mean,
                  const Tensor& running_var, const BatchNormOptions& options, const Tensor& residual);

/// Element i of x in memory stays where uniform_float of word i mod 4 of Philox's block (seed, i / 4, count) is at
/// least p.
Tensor dropout(const Tensor& x, double p, std::uint64_t seed, std::uint64_t count);

Tensor softmax(const Tensor& x, int dim);
Tensor log_softmax(const Tensor& x, int dim);
Tensor cross_entropy(const Tensor& logits, const Tensor& target, const CrossEntropyOptions& options);

}  // namespace lockstep::test::reference
