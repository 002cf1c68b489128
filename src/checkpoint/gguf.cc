#include "checkpoint/gguf.h"

#include <fstream>

#include "base/error.h"

namespace purekv {

GgufFile::GgufFile(std::unique_ptr<MappedFile> file, GgufHeader header)
    : GgufMetadata(std::move(header.metadata)), file_(std::move(file)), tensors_(std::move(header.tensors)) {
  for (size_t i = 0; i < tensors_.size(); ++i) index_.emplace(tensors_[i].name, i);
}

std::shared_ptr<const GgufFile> GgufFile::Open(const std::string& path) {
  auto file = std::make_unique<MappedFile>(path);
  GgufHeader header = ParseGgufHeader(file->bytes(), path);
  return std::shared_ptr<const GgufFile>(new GgufFile(std::move(file), std::move(header)));
}

const GgufTensor* GgufFile::Find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

std::span<const std::byte> GgufFile::Bytes(const GgufTensor& tensor) const {
  if (!GgmlReadable(tensor.type)) {
    Fail(path(), ": tensor ", tensor.name.substr(0, 200), " has type ", GgmlTypeName(tensor.type), " (",
         static_cast<uint32_t>(tensor.type), "); ", kGgmlReadableNames, " are read");
  }
  const auto all = file_->bytes();
  PUREKV_CHECK(tensor.offset <= all.size() && tensor.bytes <= all.size() - tensor.offset, "a tensor of another file");
  return all.subspan(static_cast<size_t>(tensor.offset), static_cast<size_t>(tensor.bytes));
}

void GgufFile::DropPages(std::span<const std::byte> range) const {
  file_->DropPages(range);
}

bool IsGgufPath(const std::string& path) {
  if (!FileExists(path)) return false;
  if (path.ends_with(".gguf")) return true;
  char magic[4] = {};
  std::ifstream(path, std::ios::binary).read(magic, sizeof(magic));
  return std::string_view(magic, sizeof(magic)) == "GGUF";
}

}  // namespace purekv
