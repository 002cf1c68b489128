// Where weights come from: a published checkpoint, or random numbers of the same shapes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/row_reader.h"
#include "purekv/dtype.h"

namespace purekv {

using Shape = std::vector<int64_t>;
int64_t ElementCount(const Shape& shape);
std::string ShapeName(const Shape& shape);  // "[3, 4]"
// Those of rows [first, first + count) of a row-major tensor, all of whose rows take as many bytes.
std::span<const std::byte> BytesOfRows(std::span<const std::byte> tensor, const Shape& shape, int64_t first,
                                       int64_t count);

struct TensorInfo {
  Dtype dtype = Dtype::kF32;
  Shape shape;
};

// One tensor, row-major: its bytes as stored, little-endian, ANY alignment, or where these must be expanded to be read
// (info.dtype is f32 then) a reader of its rows. A row is what one index of the first dimension names. Valid while
// `hold` lives.
struct TensorData {
  TensorInfo info;
  std::span<const std::byte> bytes;  // as stored, whatever their form
  std::shared_ptr<const void> hold;
  const RowReader* reader = nullptr;                     // null: `bytes` are values of info.dtype
  std::vector<std::span<const std::byte>> further = {};  // what the reader reads beside `bytes`: scales, zero points
};

// One tensor as it is stored, whatever its type: for listings.
struct StoredTensorInfo {
  std::string name;   // in the file
  std::string dtype;  // as the file names it
  Shape shape;
  int64_t bytes = 0;
  std::string file;  // its name, without folders
  // Of the matrix that TensorSource names so, whose codes or values this tensor holds; "": of none.
  std::string published = {};
};

// How a quantised matrix is stored.
struct QuantisedTensor {
  std::string format;        // "awq", "gptq", "compressed-tensors", "fp8"; of a GGUF its type, "Q4_K"
  int bits = 0;              // of a code
  int64_t group = 0;         // inputs that share a scale; 0: a whole row, or more
  std::string why_expanded;  // why its codes cannot be kept as they are ("8 bits with zero points"); "": they can
};

class TensorSource {
 public:
  virtual ~TensorSource() = default;
  // Names are the published ones (visual.*, model.*, lm_head.weight), whatever the file's layout. nullopt: not there.
  virtual std::optional<TensorInfo> Find(const std::string& name) const = 0;
  // Throws Error naming file and tensor when it is missing.
  virtual TensorData Read(const std::string& name) const = 0;
  // nullopt: plain numbers, or not there.
  virtual std::optional<QuantisedTensor> Quantised(const std::string& name) const {
    (void)name;
    return std::nullopt;
  }
  // What is wrong with a tensor whose shape (that of Find) is not `expected`, behind Describe: by default the two.
  virtual std::string ShapeFault(const std::string& name, const Shape& expected) const;
  // What the model as a whole is stored as: "awq", "gguf"; "": plain numbers.
  virtual std::string method() const { return ""; }
  // Whether the model was made for, and evaluated with, activations of 8 bits (compressed-tensors' W8A8).
  virtual bool Int8Activations() const { return false; }
  // All names, sorted.
  virtual std::vector<std::string> Names() const = 0;
  // The caller has copied what it needs: the source may drop the tensor's pages from memory.
  virtual void Release(const std::string& name) const { (void)name; }
  // The same of some rows, that is indices of the first dimension: of a large tensor, while its others are read.
  virtual void ReleaseRows(const std::string& name, int64_t first, int64_t count) const {
    (void)name, (void)first, (void)count;
  }
  // For messages: "dir/model.safetensors".
  virtual std::string Describe(const std::string& name) const = 0;
};

}  // namespace purekv
