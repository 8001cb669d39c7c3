#pragma once

#include <vector>

#include <lockstep/data/transforms/transform.h>

namespace lockstep {

/// torchvision.transforms.Normalize: (x − mean[c]) / std[c] for channel c, in float32. Comes after ToTensor.
class Normalize : public Transform {
 public:
  /// One value per channel, or one for all. Throws ValueError for none, for two different numbers of values, and for a
  /// std that is 0 or not finite.
  Normalize(std::vector<double> mean, std::vector<double> std);

  const std::vector<double>& mean() const { return mean_; }  ///< as given
  const std::vector<double>& std() const { return std_; }    ///< as given
  /// "Normalize(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))".
  std::string repr() const override;

 private:
  std::vector<double> mean_, std_;
};

}  // namespace lockstep
