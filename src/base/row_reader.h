// Rows of a matrix in a stored form that must be expanded to be read: blocks with scales, rows in another order.
#pragma once

#include <cstdint>
#include <string>

namespace purekv {

class QuantMatrix;

// Read-only: any number of threads may read at once.
class RowReader {
 public:
  virtual ~RowReader() = default;
  // Rows [first, first + count) as f32, one behind the other, into `out`.
  virtual void Read(int64_t first, int64_t count, float* out) const = 0;
  // What the rows are stored as, as a file names it ("Q4_K"): for messages, listings and fingerprints.
  virtual std::string format() const = 0;
  // The same matrix as codes and scales (base/quant_matrix.h); null: it has no such form.
  virtual const QuantMatrix* quant() const { return nullptr; }
  // Throws Error naming file and tensor when a row holds NaN or infinity, where scales (and codes) alone can tell, much
  // faster than Read. false: nothing was looked at.
  virtual bool CheckFinite() const { return false; }
};

}  // namespace purekv
