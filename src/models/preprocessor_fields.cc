#include "models/preprocessor_fields.h"

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"

namespace purekv {

void CheckEqual(const JsonFields& fields, const char* key, int64_t expected) {
  if (const int64_t value = fields.Int(key, 1, 1 << 16, expected); value != expected) {
    Fail(fields.where(), ": ", key, " ", value, " contradicts config.json's ", expected);
  }
}

void ReadMeanStd(const JsonFields& fields, PatchSpec& patches) {
  for (const auto& [key, target] : {std::pair{"image_mean", &patches.mean}, std::pair{"image_std", &patches.std}}) {
    if (!fields.Has(key)) continue;
    const std::vector<double> values = fields.Numbers(key, -1e3, 1e3);
    if (values.size() != 3) Fail(fields.where(), ": ", key, " has ", values.size(), " values; 3 are needed");
    for (size_t c = 0; c < 3; ++c) (*target)[c] = static_cast<float>(values[c]);
  }
  for (const float value : patches.std) {
    if (value <= 0) Fail(fields.where(), ": image_std must be positive, got ", value);
  }
}

void CheckSteps(const JsonFields& fields) {
  for (const char* key : {"do_resize", "do_rescale", "do_normalize", "do_convert_rgb"}) {
    if (!fields.Bool(key, true)) Fail(fields.where(), ": ", key, " false is not supported; true is");
  }
  constexpr double kRescale = 1.0 / 255;
  if (const double factor = fields.Number("rescale_factor", 0, 1e3, kRescale); std::abs(factor - kRescale) > 1e-6) {
    Fail(fields.where(), ": rescale_factor ", factor, " is not supported; 1/255 is");
  }
  constexpr int64_t kBicubic = 3;
  if (const int64_t filter = fields.Int("resample", 0, 100, kBicubic); filter != kBicubic) {
    Fail(fields.where(), ": resample ", filter, " is not supported; 3 (bicubic) is");
  }
}

}  // namespace purekv
