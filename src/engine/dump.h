// Every stage's tensor of the first prompt as .npy, for comparing with another implementation.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/matrix.h"
#include "engine/deep_rows.h"
#include "engine/layer_observer.h"
#include "models/language_model.h"

namespace purekv {

// Collects and writes; file names as docs/parity.md lists them. Holds every layer's input: only as large a prompt as
// memory allows can be dumped.
class Dump {
 public:
  // Throws Error when the directory cannot be made.
  explicit Dump(std::string directory);

  // one_axis: positions are one number per token, [N]; else [3, N].
  void Prompt(const PromptTokens& prompt, bool one_axis);
  void Media(std::span<const PreparedMedia> media, const LanguageModel& model);  // pixel_values, grid
  void Vision(MatrixView<const float> hidden, const TokenLayout& layout);        // visual rows of the embedded prompt
  void Deep(const DeepRows& rows);                                               // what is added behind each layer
  // Input of `layer` (layers = what the final norm gets), rows first_row .. of a prompt of `total` rows.
  void Hidden(int64_t layer, int64_t first_row, int64_t total, MatrixView<const float> rows);
  void Logits(std::span<const float> logits);
  // Writes what Hidden collected.
  void Finish();

 private:
  void Write(const std::string& name, MatrixView<const float> matrix) const;
  std::string directory_;
  std::vector<Matrix<float>> hidden_;
};

// Hands a pass's layer inputs to a Dump.
class DumpObserver : public LayerObserver {
 public:
  // The pass runs rows first_row .. of a prompt of `total`.
  DumpObserver(Dump* dump, int64_t layers, int64_t first_row, int64_t total)
      : dump_(*dump), layers_(layers), first_row_(first_row), total_(total) {}
  LayerWants Wants(int64_t layer) const override {
    return {.input = layer <= layers_, .queries = false, .attended = false};
  }
  void Input(int64_t layer, MatrixView<const float> hidden) override {
    dump_.Hidden(layer, first_row_, total_, hidden);
  }

 private:
  Dump& dump_;
  int64_t layers_, first_row_, total_;
};

}  // namespace purekv
