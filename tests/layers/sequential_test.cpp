#include <lockstep/layers/sequential.h>

#include <lockstep/core/base/error.h>
#include <lockstep/layers/activation.h>
#include <lockstep/layers/linear.h>
#include <catch2/catch.hpp>

using namespace lockstep;

TEST_CASE("a Sequential feeds each output to the next") {
  Linear fc(3, 2);
  Sequential net(fc, ReLU(), Dropout(0.0));
  const Tensor x = Tensor::randn({4, 3});
  ReLU relu;
  CHECK(net(x).to_vector<float>() == relu(fc(x)).to_vector<float>());
  CHECK(net.size() == 3);
}

TEST_CASE("an empty Sequential returns its input") {
  Sequential empty;
  CHECK(empty.empty());
  const Tensor x = Tensor::ones({2});
  CHECK(empty(x).data_ptr() == x.data_ptr());
  CHECK(to_string(empty) == "Sequential()");
}

TEST_CASE("modules are reached by index and type") {
  Sequential net(Linear(3, 2), ReLU());
  Linear& added = net.push_back(Linear(2, 5));
  CHECK(&added == &net.at<Linear>(2));
  CHECK(net[1].type_name() == "ReLU");
  CHECK(net.at<Linear>(0).weight.shape() == Shape{2, 3});
  CHECK_THROWS_WITH(net[3], Catch::Contains("expected an index below 3, got 3"));
  CHECK_THROWS_WITH(net.at<Linear>(1), Catch::Contains("module 1 is a ReLU"));
}

TEST_CASE("an lvalue module given to a Sequential shares its parameters, and one Sequential alone is copied") {
  Linear fc(2, 2);
  Sequential net(fc);
  CHECK(net.at<Linear>(0).weight.data_ptr() == fc.weight.data_ptr());
  Sequential copy(net);
  CHECK(copy.size() == 1);
  CHECK(copy[0].type_name() == "Linear");
  CHECK(&copy[0] != &net[0]);
  Sequential outer;
  outer.push_back(net);
  CHECK(outer[0].type_name() == "Sequential");
}

TEST_CASE("assigning a Sequential replaces its modules") {
  Sequential net(Linear(2, 2), ReLU());
  net = Sequential(Flatten());
  CHECK(net.size() == 1);
  CHECK(net.state_dict().empty());
  Sequential other{ReLU()};
  other = net;
  CHECK(other[0].type_name() == "Flatten");
}
