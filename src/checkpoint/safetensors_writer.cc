#include "checkpoint/safetensors_writer.h"

#include <bit>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "checkpoint/json.h"

namespace purekv {
namespace {

const char* StoredDtype(Dtype dtype) {
  return dtype == Dtype::kF32 ? "F32" : dtype == Dtype::kBF16 ? "BF16" : "F16";
}

size_t BytesOf(const TensorInfo& type) {
  size_t count = 1;
  for (const int64_t dim : type.shape) count *= static_cast<size_t>(dim);
  return count * DtypeSize(type.dtype);
}

}  // namespace

void WriteSafetensors(const std::string& path, const TensorSource& source, const std::vector<StoredTensor>& tensors,
                      const std::map<std::string, std::string>& metadata) {
  static_assert(std::endian::native == std::endian::little, "the format is little-endian");
  Json header = {{"__metadata__", {{"format", "pt"}}}};
  for (const auto& [key, text] : metadata) header["__metadata__"][key] = text;
  size_t offset = 0;
  for (const StoredTensor& tensor : tensors) {
    const auto type = source.Find(tensor.name);
    if (!type) Fail(path, ": tensor ", tensor.name, " is not there to be written");
    const size_t bytes = BytesOf(*type);
    header[tensor.stored_name] = {
        {"dtype", StoredDtype(type->dtype)}, {"shape", type->shape}, {"data_offsets", {offset, offset + bytes}}};
    offset += bytes;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // data begins aligned
  FileWriter file(path);
  const auto write = [&](const void* data, size_t bytes) { file.Write({static_cast<const std::byte*>(data), bytes}); };
  const uint64_t length = text.size();
  write(&length, sizeof(length));
  write(text.data(), text.size());
  for (const StoredTensor& tensor : tensors) {
    const TensorData data = source.Read(tensor.name);
    file.Write(data.bytes);
    source.Release(tensor.name);
  }
  file.Commit();
}

}  // namespace purekv
