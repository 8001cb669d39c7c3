#include <lockstep/parallel/distributed_data_parallel.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <set>

#include <catch2/catch.hpp>

#include <lockstep/tests/parallel/models.h>

using namespace lockstep;
using namespace lockstep::testing;

namespace {

/// Weights and buffers after some steps on `ranks` ranks, which must agree, and the losses.
struct Outcome {
  std::string hash;
  std::vector<double> losses;
  std::uint64_t copies = 0;
};

Outcome train(Device::Type type, int ranks, const ReplicaOptions& options, int steps = 4) {
  manual_seed(7);
  Outcome outcome;
  std::mutex mutex;
  const std::uint64_t copies = detail::grad_destination_copies();
  spawn(devices_of(type, ranks), [&](ProcessGroup& group) {
    SmallNet model;
    model.to(group.device());
    DistributedDataParallel ddp(model, group, options);
    SGD optimizer(model.parameters(), {.lr = 0.1, .momentum = 0.9, .weight_decay = 1e-3});
    std::vector<double> losses;
    for (int step = 0; step < steps; ++step) {
      const std::int64_t size = step == 2 ? 5 : 22;  // fewer images than replicas
      const Batch batch = random_batch(size, static_cast<std::uint64_t>(step));
      optimizer.zero_grad();
      const Tensor loss = ddp.backward(rows_of_replicas(batch, ddp.own(), ddp.replicas()), [&](const Batch& replica) {
        return cross_entropy(model(replica.images), replica.labels);
      });
      optimizer.step();
      losses.push_back(loss.item());
    }
    const std::string hash = sha256_of(model.state_dict());
    std::lock_guard lock(mutex);
    if (outcome.hash.empty()) outcome = {hash, losses, 0};
    CHECK(outcome.hash == hash);
    CHECK(outcome.losses == losses);
  });
  outcome.copies = detail::grad_destination_copies() - copies;
  return outcome;
}

}  // namespace

TEST_CASE("the weights are the same bits for any number of ranks") {
  int runs = 0;
  for (const Device::Type type : device_types()) {
    const bool on_cuda = type == Device::Type::cuda;
    for (const std::int64_t replicas :
         on_cuda ? std::vector<std::int64_t>{4, 3} : std::vector<std::int64_t>{1, 2, 3, 6, 7, 8}) {
      std::set<std::string> hashes;
      std::set<std::vector<double>> losses;
      for (int ranks = 1; ranks <= replicas; ++ranks) {
        CAPTURE(on_cuda, replicas, ranks);
        const Outcome outcome = train(
            type, ranks, {.replicas = replicas, .first_bucket_bytes = 1000, .bucket_bytes = 3000}, on_cuda ? 3 : 4);
        CHECK(outcome.copies == 0);
        hashes.insert(outcome.hash);
        losses.insert(outcome.losses);
        ++runs;
      }
      CHECK(hashes.size() == 1);
      CHECK(losses.size() == 1);
    }
  }
  std::printf("bitwise_runs: %d\n", runs);
}

namespace {

/// Gradients of the mean loss over the whole batch, by a model on its own.
std::vector<Tensor> whole_batch_gradients(SmallNet& model, const Batch& batch) {
  model.zero_grad();
  cross_entropy(model(batch.images), batch.labels).backward();
  std::vector<Tensor> gradients;
  for (const Tensor& parameter : model.parameters()) gradients.push_back(parameter.grad().clone());
  return gradients;
}

double norm_of(const Tensor& x) {
  double sum = 0;
  for (const double value : x.to_vector<double>()) sum += value * value;
  return std::sqrt(sum);
}

double relative_difference(const Tensor& a, const Tensor& b) {
  return norm_of(sub(a.detach(), b.detach())) / std::max(norm_of(b), 1e-30);
}

DistributedDataParallel::LossFunction loss_of(Module& model) {
  return [&model](const Batch& replica) { return cross_entropy(model(replica.images), replica.labels); };
}

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.nbytes() == b.nbytes() && std::memcmp(a.data_ptr(), b.data_ptr(), a.nbytes()) == 0;
}

}  // namespace

TEST_CASE("without batch norm the gradients are those of the big batch") {
  double worst_double = 0, worst_float = 0;
  int comparisons = 0;
  std::mutex mutex;
  for (const DType dtype : {DType::float64, DType::float32}) {
    for (const std::int64_t replicas : {1, 2, 3, 5, 8}) {
      for (const int ranks : {1, 2, 3}) {
        if (ranks > replicas) continue;
        spawn(devices_of(Device::Type::cpu, ranks), [&](ProcessGroup& group) {
          manual_seed(11);
          SmallNet model(false, false), alone(false, false);
          model.to(dtype);
          alone.to(dtype);
          DistributedDataParallel ddp(model, group, {.replicas = replicas});
          alone.load_state_dict(model.state_dict());
          const Batch batch = random_batch(23, 1, dtype);
          const Tensor loss = ddp.backward(rows_of_replicas(batch, ddp.own(), replicas), loss_of(model));
          const auto expected = whole_batch_gradients(alone, batch);
          const double expected_loss = cross_entropy(alone(batch.images), batch.labels).item();
          std::lock_guard lock(mutex);
          double& worst = dtype == DType::float64 ? worst_double : worst_float;
          for (std::size_t i = 0; i < expected.size(); ++i) {
            worst = std::max(worst, relative_difference(model.parameters()[i].grad(), expected[i]));
            ++comparisons;
          }
          CHECK(loss.item() == Approx(expected_loss).epsilon(dtype == DType::float64 ? 1e-13 : 1e-6));
        });
      }
    }
  }
  std::printf("big_batch_comparisons: %d\nworst_float64: %.1e\nworst_float32: %.1e\n", comparisons, worst_double,
              worst_float);
  CHECK(worst_double > 0);
  CHECK(worst_double < 1e-12);
  CHECK(worst_float < 3e-5);
}

TEST_CASE("gradients are the tree sum of the replicas' own, bit for bit, whatever the buckets and the overlap") {
  const std::int64_t replicas = 6;
  const Batch batch = random_batch(20, 3);
  int comparisons = 0;
  std::mutex mutex;
  for (const std::size_t bucket : {std::size_t{64}, std::size_t{2000}, std::size_t{25} << 20}) {
    for (const bool overlap : {true, false}) {
      for (const int ranks : {1, 2, 4}) {
        spawn(devices_of(Device::Type::cpu, ranks), [&](ProcessGroup& group) {
          set_num_threads(1);
          manual_seed(5);
          SmallNet model(true, false);
          DistributedDataParallel ddp(
              model, group,
              {.replicas = replicas, .first_bucket_bytes = bucket, .bucket_bytes = bucket, .overlap = overlap});
          SmallNet alone = clone(model);
          for (int step = 0; step < 3; ++step) {  // the buckets are rebuilt after the first
            model.zero_grad();
            ddp.backward(rows_of_replicas(batch, ddp.own(), replicas), loss_of(model));
            std::vector<std::vector<Tensor>> gradients;
            for (std::int64_t r = 0; r < replicas; ++r) {
              const Batch rows = rows_of(batch, part_of(batch.size(), replicas, r));
              alone.zero_grad();
              const Tensor mean = cross_entropy(alone(rows.images), rows.labels);
              mean.backward(Tensor::full({}, static_cast<double>(rows.size()) / 20.0));
              gradients.emplace_back();
              for (const Tensor& parameter : alone.parameters()) gradients.back().push_back(parameter.grad());
            }
            const auto add = [](const Tensor& a, const Tensor& b) { return lockstep::add(a.detach(), b.detach()); };
            std::lock_guard lock(mutex);
            for (std::size_t i = 0; i < gradients[0].size(); ++i) {
              const auto g = [&](std::size_t r) { return gradients[r][i]; };
              const Tensor sum = add(add(add(g(0), g(1)), add(g(2), g(3))), add(g(4), g(5)));
              CHECK(same_bits(model.parameters()[i].grad(), sum));
              ++comparisons;
            }
          }
          std::lock_guard lock(mutex);
          CHECK(ddp.stats().rebuilds == 1);
          CHECK((ddp.stats().reduced_in_backward > 0) == overlap);
          if (bucket == 64) CHECK(ddp.stats().buckets == 6);  // two small ones fit together
        });
      }
    }
  }
  std::printf("oracle_comparisons: %d\n", comparisons);
}

TEST_CASE("the fast mode agrees to rounding, on all ranks alike") {
  std::mutex mutex;
  std::set<std::string> hashes;
  spawn(devices_of(Device::Type::cpu, 3), [&](ProcessGroup& group) {
    set_num_threads(1);
    manual_seed(5);
    SmallNet model(true, false), exact(true, false);
    DistributedDataParallel fast(model, group, {.replicas = 7, .bitwise = false}),
        bitwise(exact, group, {.replicas = 7});
    exact.load_state_dict(model.state_dict());
    const Batch batch = random_batch(20, 3);
    fast.backward(rows_of_replicas(batch, fast.own(), 7), loss_of(model));
    bitwise.backward(rows_of_replicas(batch, fast.own(), 7), loss_of(exact));
    std::lock_guard lock(mutex);
    Sha256 sha;
    for (std::size_t i = 0; i < model.parameters().size(); ++i) {
      const Tensor gradient = model.parameters()[i].grad();
      CHECK(relative_difference(gradient, exact.parameters()[i].grad()) < 1e-6);
      sha.update(gradient.data_ptr(), gradient.nbytes());
    }
    hashes.insert(sha.hex());
  });
  CHECK(hashes.size() == 1);
}

namespace {

/// Which of its parts a forward uses is up to the replica's first image.
struct Branches : Module {
  Linear always{4, 3}, sometimes{4, 3}, never{4, 3};
  Branches() {
    register_module("always", always);
    register_module("sometimes", sometimes);
    register_module("never", never);
  }
  Tensor forward(const Tensor& x) override {
    const Tensor y = always(x);
    return x.to_vector<float>()[0] > 0 ? y + sometimes(x) : y;
  }
};

Batch rows_that(std::vector<float> first_values) {
  const auto n = static_cast<std::int64_t>(first_values.size());
  Batch batch{Tensor::ones({n, 4}), Tensor::zeros({n}, {.dtype = DType::int64}), {}};
  for (std::int64_t i = 0; i < n; ++i) {
    batch.images.data<float>()[i * 4] = first_values[static_cast<std::size_t>(i)];
    batch.indices.push_back(i);
  }
  return batch;
}

}  // namespace

TEST_CASE("parameters that some replicas or all of them do not use are right on every rank, and nobody waits") {
  std::mutex mutex;
  for (const int ranks : {1, 2, 4}) {
    for (const std::vector<float>& firsts : {std::vector<float>{-1, 2, -1, -1}, {-1, -1, -1, -1}, {1, 1, 1, -1}}) {
      spawn(devices_of(Device::Type::cpu, ranks), [&](ProcessGroup& group) {
        manual_seed(2);
        Branches model;
        DistributedDataParallel ddp(model, group, {.replicas = 4, .first_bucket_bytes = 50, .bucket_bytes = 50});
        Branches alone;
        alone.load_state_dict(model.state_dict());
        const Batch batch = rows_that(firsts);
        for (int step = 0; step < 3; ++step) {
          model.zero_grad();
          ddp.backward(rows_of_replicas(batch, ddp.own(), 4), loss_of(model));
          alone.zero_grad();
          for (std::int64_t r = 0; r < 4; ++r) {
            const Batch row = rows_of(batch, {r, r + 1});
            cross_entropy(alone(row.images), row.labels).backward(Tensor::full({}, 0.25));
          }
          std::lock_guard lock(mutex);
          for (std::size_t i = 0; i < model.parameters().size(); ++i) {
            const Tensor gradient = model.parameters()[i].grad(), expected = alone.parameters()[i].grad();
            CHECK(gradient.defined() == expected.defined());
            if (gradient.defined()) CHECK(relative_difference(gradient, expected) < 1e-6);
          }
          CHECK(!model.never.weight.grad().defined());
        }
      });
    }
  }
}

TEST_CASE("gradients are added up without being reduced under NoSync, the same bits for any number of ranks") {
  std::set<std::string> hashes;
  std::mutex mutex;
  for (const int ranks : {1, 2, 3, 5}) {
    spawn(devices_of(Device::Type::cpu, ranks), [&](ProcessGroup& group) {
      manual_seed(5);
      SmallNet model(false, false), alone(false, false);
      DistributedDataParallel ddp(model, group, {.replicas = 5, .first_bucket_bytes = 1000, .bucket_bytes = 1000});
      alone.load_state_dict(model.state_dict());
      const auto rows = [&](const Batch& batch) { return rows_of_replicas(batch, ddp.own(), 5); };
      std::vector<Tensor> expected;
      for (int round = 0; round < 2; ++round) {
        model.zero_grad();
        expected.clear();
        for (const std::uint64_t micro : {1, 2, 3}) {
          const Batch batch = random_batch(micro == 2 ? 3 : 20, micro);  // some replicas have nothing once
          const std::uint64_t sent = group.bytes_sent();
          if (micro < 3) {
            const DistributedDataParallel::NoSync no_sync(ddp);
            ddp.backward(rows(batch), loss_of(model));
            std::lock_guard lock(mutex);
            CHECK(group.bytes_sent() - sent == (static_cast<std::uint64_t>(ranks) - 1) * 8);  // a number
            CHECK(!model.fc.weight.grad().defined());
          } else {
            ddp.backward(rows(batch), loss_of(model));
          }
          const auto gradients = whole_batch_gradients(alone, batch);
          for (std::size_t i = 0; i < gradients.size(); ++i) {
            i < expected.size() ? static_cast<void>(expected[i].add_(gradients[i])) : expected.push_back(gradients[i]);
          }
        }
        std::lock_guard lock(mutex);
        Sha256 sha;
        for (std::size_t i = 0; i < expected.size(); ++i) {
          const Tensor gradient = model.parameters()[i].grad();
          CHECK(relative_difference(gradient, expected[i]) < 3e-5);
          sha.update(gradient.data_ptr(), gradient.nbytes());
        }
        hashes.insert(sha.hex());  // of both rounds, which are alike
      }
    });
  }
  CHECK(hashes.size() == 1);
}

TEST_CASE("gradients that were not dropped are added to, as PyTorch's are") {
  std::mutex mutex;
  spawn(devices_of(Device::Type::cpu, 2), [&](ProcessGroup& group) {
    manual_seed(5);
    SmallNet model(false, false);
    DistributedDataParallel ddp(model, group, {.replicas = 4});
    const Batch batch = random_batch(20, 3);
    ddp.backward(rows_of_replicas(batch, ddp.own(), 4), loss_of(model));
    const Tensor once = model.fc.weight.grad().clone(), held = model.fc.weight.grad();
    ddp.backward(rows_of_replicas(batch, ddp.own(), 4), loss_of(model));
    std::lock_guard lock(mutex);
    CHECK(same_bits(model.fc.weight.grad(), add(once, once)));
    CHECK(same_bits(held, once));  // what someone holds is not written over
  });
}

TEST_CASE("ranks that run out of images go on with nothing until all have, for every size") {
  int problems = 0;
  std::mutex mutex;
  for (std::int64_t images = 0; images <= 20; ++images) {
    for (const std::int64_t batch_size : {1, 2, 3, 5, 8}) {
      for (int ranks = 1; ranks <= 4; ++ranks) {
        std::set<std::string> hashes;
        std::int64_t seen = 0;
        std::set<int> steps;
        spawn(devices_of(Device::Type::cpu, ranks), [&](ProcessGroup& group) {
          manual_seed(5);
          Linear model(4, 3);
          DistributedDataParallel ddp(model, group);
          SGD optimizer(model.parameters(), {.lr = 0.1});
          // Very uneven: rank r has what part r + 1 of a triangle holds.
          const std::int64_t all_parts = ranks * (ranks + 1) / 2;
          const std::int64_t first = images * (group.rank() * (group.rank() + 1) / 2) / all_parts;
          const std::int64_t last = images * ((group.rank() + 1) * (group.rank() + 2) / 2) / all_parts;
          int step = 0;
          std::int64_t here = 0;
          for (std::int64_t next = first;; ++step) {
            const std::int64_t n = std::min(batch_size, last - next);
            Batch batch;
            if (n > 0) {
              batch = rows_that(std::vector<float>(static_cast<std::size_t>(n), static_cast<float>(next)));
              next += n;
            }
            optimizer.zero_grad();
            const Tensor loss = ddp.backward(batch, [&](const Batch& replica) {
              here += replica.size();
              return cross_entropy(model(replica.images), replica.labels);
            });
            if (!loss.defined()) break;
            optimizer.step();
          }
          std::lock_guard lock(mutex);
          seen += here;
          hashes.insert(sha256_of(model.state_dict()));
          steps.insert(step);
        });
        CAPTURE(images, batch_size, ranks);
        CHECK(hashes.size() == 1);
        CHECK(steps.size() == 1);
        CHECK(seen == images);
        ++problems;
      }
    }
  }
  std::printf("uneven_problems: %d\n", problems);
}

TEST_CASE("all ranks have replica 0's buffers after every step, and evaluation in between changes nothing") {
  std::set<std::string> hashes, weights;
  std::mutex mutex;
  const Batch eval_batch = random_batch(9, 99);
  for (const bool evaluates : {false, true}) {
    for (const int ranks : {1, 2, 4}) {
      spawn(devices_of(Device::Type::cpu, ranks), [&](ProcessGroup& group) {
        set_num_threads(1);
        manual_seed(5);
        SmallNet model, first_replica;
        DistributedDataParallel ddp(model, group, {.replicas = 4});
        SGD optimizer(model.parameters(), {.lr = 0.1});
        for (std::uint64_t step = 0; step < 3; ++step) {
          const Batch batch = random_batch(20, step);
          first_replica.load_state_dict(model.state_dict());
          first_replica(rows_of(batch, part_of(20, 4, 0)).images);
          optimizer.zero_grad();
          ddp.backward(rows_of_replicas(batch, ddp.own(), 4), loss_of(model));
          optimizer.step();
          std::lock_guard lock(mutex);
          CHECK(same_bits(model.norm.running_mean, first_replica.norm.running_mean));
          CHECK(same_bits(model.norm.running_var, first_replica.norm.running_var));
          CHECK(model.norm.num_batches_tracked.item() == static_cast<double>(step + 1));
          if (evaluates) {
            const NoGradGuard no_grad;
            model.eval();
            const Tensor logits = model(eval_batch.images);
            Sha256 sha;
            sha.update(logits.data_ptr(), logits.nbytes());
            hashes.insert(sha.hex());
            model.train();
          }
        }
        std::lock_guard lock(mutex);
        weights.insert(sha256_of(model.state_dict()));
      });
    }
  }
  CHECK(hashes.size() == 3);
  CHECK(weights.size() == 1);
}

TEST_CASE("ranks with different models or options are told the first difference") {
  struct Difference {
    std::function<std::unique_ptr<Module>(int rank)> model;
    std::function<ReplicaOptions(int rank)> options;
    std::string says;
  };
  const auto same_options = [](int) { return ReplicaOptions{}; };
  const auto linear = [](std::int64_t in, std::int64_t out, bool bias) {
    return std::make_unique<Linear>(in, out, Linear::Options{.bias = bias});
  };
  const std::vector<Difference> differences = {
      {[&](int rank) { return linear(4, rank == 2 ? 5 : 3, true); }, same_options,
       "'parameter weight: float32 [3, 4], trained' on rank 0 and 'parameter weight: float32 [5, 4], trained' on rank "
       "2"},
      {[&](int rank) { return linear(4, 3, rank == 0); }, same_options,
       "'parameter bias: float32 [3], trained' on rank 0 and 'the end' on rank 1"},
      {[&](int rank) {
         auto model = linear(4, 3, true);
         if (rank == 1) model->bias.set_requires_grad(false);
         return model;
       },
       same_options, "'parameter bias: float32 [3], trained' on rank 0 and 'parameter bias: float32 [3]' on rank 1"},
      {[&](int rank) {
         auto model = linear(4, 3, true);
         if (rank == 1) model->to(DType::float64);
         return model;
       },
       same_options, "float64 [3, 4]"},
      {[&](int) { return linear(4, 3, true); }, [](int rank) { return ReplicaOptions{.replicas = rank == 1 ? 6 : 3}; },
       "'replicas 3, "},
  };
  std::mutex mutex;
  for (const Difference& difference : differences) {
    std::vector<std::string> messages;
    spawn(devices_of(Device::Type::cpu, 3), [&](ProcessGroup& group) {
      const auto model = difference.model(group.rank());
      try {
        DistributedDataParallel ddp(*model, group, difference.options(group.rank()));
      } catch (const CommError& error) {
        std::lock_guard lock(mutex);
        messages.emplace_back(error.what());
      }
    });
    CHECK(messages.size() == 3);
    for (const std::string& message : messages) CHECK_THAT(message, Catch::Matchers::Contains(difference.says));
  }
}

TEST_CASE("an exception in one rank's loss ends the step on all, and a rank alone can go on") {
  CHECK_THROWS_WITH(spawn(devices_of(Device::Type::cpu, 3),
                          [&](ProcessGroup& group) {
                            SmallNet model;
                            DistributedDataParallel ddp(model, group);
                            ddp.backward(random_batch(4, 1), [&](const Batch& replica) {
                              if (group.rank() == 2) throw ValueError("loss", "a bad image");
                              return cross_entropy(model(replica.images), replica.labels);
                            });
                          }),
                    "[loss] a bad image");
  spawn(devices_of(Device::Type::cpu, 1), [&](ProcessGroup& group) {
    manual_seed(5);
    SmallNet model(true, false), same(true, false);
    DistributedDataParallel ddp(model, group, {.replicas = 3}), calm(same, group, {.replicas = 3});
    same.load_state_dict(model.state_dict());
    int calls = 0;
    const Batch batch = random_batch(12, 1);
    CHECK_THROWS_AS(ddp.backward(batch,
                                 [&](const Batch& replica) {
                                   if (++calls == 2) throw ValueError("loss", "a bad image");
                                   return cross_entropy(model(replica.images), replica.labels);
                                 }),
                    ValueError);
    CHECK(!model.fc.weight.grad().defined());
    CHECK_THROWS_AS(ddp.backward(batch, [](const Batch&) { return Tensor::ones({}); }), ValueError);
    model.load_state_dict(same.state_dict());  // the running statistics of the failed step
    ddp.backward(batch, loss_of(model));
    calm.backward(batch, loss_of(same));
    for (std::size_t i = 0; i < model.parameters().size(); ++i) {
      CHECK(same_bits(model.parameters()[i].grad(), same.parameters()[i].grad()));
    }
  });
}

TEST_CASE("what cannot be trained in parallel is refused") {
  spawn(devices_of(Device::Type::cpu, 2), [&](ProcessGroup& group) {
    SmallNet model;
    CHECK_THROWS_AS(DistributedDataParallel(model, group, {.replicas = 1}), ValueError);
    CHECK_THROWS_AS(DistributedDataParallel(model, group, {.bucket_bytes = 0}), ValueError);
    CHECK_THROWS_AS(DistributedDataParallel(model, group, {.replicas = 6, .bf16_compression = true}), ValueError);
    model.requires_grad(false);
    CHECK_THROWS_AS(DistributedDataParallel(model, group), ValueError);
  });
}

TEST_CASE("with bf16 compression gradients are those of bfloat16, the same on all ranks") {
  std::mutex mutex;
  std::set<std::string> hashes;
  double largest = 0;
  spawn(devices_of(Device::Type::cpu, 3), [&](ProcessGroup& group) {
    set_num_threads(1);
    manual_seed(5);
    SmallNet model(true, false), exact(true, false);
    const std::uint64_t before = group.bytes_sent();
    DistributedDataParallel compressed(model, group, {.bf16_compression = true}), full(exact, group);
    exact.load_state_dict(model.state_dict());
    const Batch batch = random_batch(20, 3);
    const Batch rows = rows_of_replicas(batch, full.own(), 3);
    const std::uint64_t at_start = group.bytes_sent();
    compressed.backward(rows, loss_of(model));
    const std::uint64_t with = group.bytes_sent() - at_start;
    full.backward(rows, loss_of(exact));
    const std::uint64_t without = group.bytes_sent() - at_start - with;
    Sha256 sha;
    std::lock_guard lock(mutex);
    CHECK(with < without * 6 / 10 + (at_start - before) / 2);
    for (std::size_t i = 0; i < model.parameters().size(); ++i) {
      const Tensor gradient = model.parameters()[i].grad();
      const double difference = relative_difference(gradient, exact.parameters()[i].grad());
      largest = std::max(largest, difference);
      CHECK(difference < 1e-2);
      CHECK(same_bits(gradient.to(DType::bfloat16).to(DType::float32), gradient));
      sha.update(gradient.data_ptr(), gradient.nbytes());
    }
    hashes.insert(sha.hex());
  });
  CHECK(largest > 1e-4);
  CHECK(hashes.size() == 1);
}
