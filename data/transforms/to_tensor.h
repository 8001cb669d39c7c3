#pragma once

#include <lockstep/data/transforms/transform.h>

namespace lockstep {

/// torchvision.transforms.ToTensor: uint8 to float32, divided by 255.
class ToTensor : public Transform {
 public:
  std::string repr() const override { return "ToTensor()"; }
};

}  // namespace lockstep
