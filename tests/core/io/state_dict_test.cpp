#include <lockstep/core/io/state_dict.h>

#include <lockstep/core/base/error.h>
#include <catch2/catch.hpp>

using namespace lockstep;

namespace {

std::string names_of(const StateDict& state) {
  std::string names;
  for (const auto& [name, tensor] : state) names += name + ' ';
  return names;
}

}  // namespace

TEST_CASE("a state dict keeps the order of insertion") {
  StateDict state({{"b", Tensor::ones({1})}, {"a", Tensor::ones({2})}});
  state.insert("c", Tensor::ones({3}));
  state.set("0", Tensor::ones({4}));
  state.set("b", Tensor::ones({5}));
  CHECK(names_of(state) == "b a c 0 ");
  CHECK(state.at("b").numel() == 5);
  CHECK(state.size() == 4);
}

TEST_CASE("erasing keeps the other entries findable") {
  StateDict state;
  for (const char* name : {"a", "b", "c", "d"}) state.insert(name, Tensor::full({1}, name[0]));
  CHECK(state.erase("b"));
  CHECK_FALSE(state.erase("b"));
  CHECK(names_of(state) == "a c d ");
  for (const auto& [name, tensor] : state) CHECK(state.at(name).item() == name[0]);
  CHECK_FALSE(state.contains("b"));
  CHECK(state.find("b") == nullptr);
  state.insert("b", Tensor::ones({1}));
  CHECK(names_of(state) == "a c d b ");
}

TEST_CASE("names are unique, and unknown ones are errors") {
  StateDict state({{"a", Tensor::ones({1})}});
  CHECK_THROWS_AS(state.insert("a", Tensor()), ValueError);
  CHECK_THROWS_AS(StateDict({{"a", Tensor()}, {"a", Tensor()}}), ValueError);
  CHECK_THROWS_WITH(state.at("z"), Catch::Contains("'z'"));
  CHECK(state.size() == 1);
}
