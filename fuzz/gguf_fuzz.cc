// Any bytes as a GGUF file: an Error, or tensors that lie inside the file without overlap and can be expanded, and
// metadata whose every getter gives a value inside the file or an Error.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/gguf_header.h"
#include "purekv/error.h"

namespace {

using purekv::GgufMetadata;
using purekv::GgufTensor;

void CheckInside(std::string_view text, std::span<const std::byte> file) {
  const auto* begin = reinterpret_cast<const char*>(file.data());
  if (text.data() < begin || text.data() + text.size() > begin + file.size()) std::abort();
}

template <class Get>
void Try(Get&& get) {
  try {
    get();
  } catch (const purekv::Error&) {
  }
}

void CheckMetadata(const GgufMetadata& metadata, std::span<const std::byte> file) {
  for (const std::string_view key : metadata.Keys()) {
    CheckInside(key, file);
    const purekv::GgufValue* value = metadata.FindValue(key);
    if (value == nullptr || value->key != key) std::abort();
    Try([&] { metadata.FindUnsigned(key); });
    Try([&] { metadata.FindFloat(key); });
    Try([&] { metadata.FindBool(key); });
    Try([&] { CheckInside(metadata.FindString(key).value(), file); });
    Try([&] {
      const auto strings = metadata.FindStrings(key).value();
      if (strings.size() != value->count) std::abort();
      for (const std::string_view text : strings) CheckInside(text, file);
    });
    Try([&] {
      if (metadata.FindFloats(key).value().size() != value->count) std::abort();
    });
    Try([&] {
      if (metadata.FindInts(key).value().size() != value->count) std::abort();
    });
  }
}

void CheckTensor(const GgufTensor& tensor, std::span<const std::byte> file) {
  if (tensor.offset > file.size() || tensor.bytes > file.size() - tensor.offset) std::abort();
  if (!purekv::GgmlReadable(tensor.type)) return;
  const auto elements = static_cast<size_t>(purekv::GgmlBlockElements(tensor.type));
  const auto bytes = static_cast<size_t>(purekv::GgmlBlockBytes(tensor.type));
  size_t count = 1;
  for (const int64_t dimension : tensor.shape) count *= static_cast<size_t>(dimension);
  if (count % elements != 0 || count / elements * bytes != tensor.bytes) std::abort();
  const size_t blocks = std::min<size_t>(count / elements, 4);
  std::vector<float> values(blocks * elements);
  purekv::ExpandGgml(tensor.type, file.subspan(static_cast<size_t>(tensor.offset), blocks * bytes), values);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = std::as_bytes(std::span(data, size));
  Try([&] {
    const purekv::GgufHeader header = purekv::ParseGgufHeader(file, "fuzz.gguf");
    CheckMetadata(header.metadata, file);
    std::vector<std::pair<uint64_t, uint64_t>> places;
    for (const GgufTensor& tensor : header.tensors) {
      CheckTensor(tensor, file);
      places.emplace_back(tensor.offset, tensor.offset + tensor.bytes);
    }
    std::sort(places.begin(), places.end());
    for (size_t i = 1; i < places.size(); ++i) {
      if (places[i - 1].second > places[i].first) std::abort();
    }
  });
  return 0;
}
