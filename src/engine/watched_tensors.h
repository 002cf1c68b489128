// The tensors of a model on their way into it: how far loading is, and whether it is to stop.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/tensor_source.h"
#include "purekv/model.h"

namespace purekv {

// Passes everything on to `source`; both must live as long as this does. Each tensor read is reported to
// options.progress ("load", parameters so far of `parameters`), and Read throws Cancelled once options.cancel is
// raised.
class WatchedTensors final : public TensorSource {
 public:
  WatchedTensors(const TensorSource& source, int64_t parameters, const LoadOptions& options)
      : source_(source), parameters_(parameters), options_(options) {}

  std::optional<TensorInfo> Find(const std::string& name) const override { return source_.Find(name); }
  TensorData Read(const std::string& name) const override;
  std::vector<std::string> Names() const override { return source_.Names(); }
  void Release(const std::string& name) const override { source_.Release(name); }
  void ReleaseRows(const std::string& name, int64_t first, int64_t count) const override {
    source_.ReleaseRows(name, first, count);
  }
  std::string Describe(const std::string& name) const override { return source_.Describe(name); }
  std::optional<QuantisedTensor> Quantised(const std::string& name) const override { return source_.Quantised(name); }
  std::string ShapeFault(const std::string& name, const Shape& expected) const override {
    return source_.ShapeFault(name, expected);
  }
  std::string method() const override { return source_.method(); }
  bool Int8Activations() const override { return source_.Int8Activations(); }

 private:
  const TensorSource& source_;
  int64_t parameters_;
  const LoadOptions& options_;
  mutable int64_t read_ = 0;
};

}  // namespace purekv
