#include "models/fingerprint.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <span>

#include "base/hash.h"

namespace purekv {
namespace {

constexpr size_t kPiece = 4096;
constexpr size_t kPieces = 8;

class TwoHashes {
 public:
  void Add(std::span<const std::byte> bytes) {
    for (Hash64& hash : hashes_) hash.Add(bytes);
  }
  // A length before the bytes: "ab", "c" is not "a", "bc".
  void AddText(std::string_view text) {
    AddNumber(static_cast<int64_t>(text.size()));
    Add(std::as_bytes(std::span(text)));
  }
  void AddNumber(int64_t number) { Add(std::as_bytes(std::span(&number, 1))); }
  std::string Hex() const {
    std::array<char, 33> text;
    std::snprintf(text.data(), text.size(), "%016llx%016llx", static_cast<unsigned long long>(hashes_[0].Value()),
                  static_cast<unsigned long long>(hashes_[1].Value()));
    return text.data();
  }

 private:
  std::array<Hash64, 2> hashes_{Hash64(0), Hash64(1)};
};

void AddSample(std::span<const std::byte> bytes, TwoHashes* hashes) {
  const size_t size = bytes.size();
  if (size <= kPiece * kPieces) {
    hashes->Add(bytes);
  } else {
    for (size_t i = 0; i < kPieces; ++i) hashes->Add(bytes.subspan((size - kPiece) * i / (kPieces - 1), kPiece));
  }
}

void AddTensor(const TensorSource& source, const std::string& name, TwoHashes* hashes) {
  const TensorData tensor = source.Read(name);
  hashes->AddText(name);
  hashes->AddText(tensor.reader != nullptr ? tensor.reader->format() : DtypeName(tensor.info.dtype));
  hashes->AddNumber(static_cast<int64_t>(tensor.info.shape.size()));
  for (const int64_t dim : tensor.info.shape) hashes->AddNumber(dim);
  AddSample(tensor.bytes, hashes);
  for (const std::span<const std::byte> bytes : tensor.further) AddSample(bytes, hashes);
  source.Release(name);
}

}  // namespace

std::string Fingerprint(std::string_view config, const std::vector<TensorSpec>& specs, const TensorSource* source) {
  TwoHashes hashes;
  hashes.AddText(config);
  std::vector<std::string> names;
  for (const TensorSpec& spec : specs) names.push_back(spec.name);
  std::sort(names.begin(), names.end());
  hashes.AddNumber(static_cast<int64_t>(names.size()));
  for (const std::string& name : names) {
    if (source != nullptr) AddTensor(*source, name, &hashes);
  }
  return hashes.Hex();
}

}  // namespace purekv
