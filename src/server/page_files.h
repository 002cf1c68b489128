// The files of src/server/page/, which are part of the program: cmake/EmbedFiles.cmake writes the source at build time.
#pragma once

#include <span>
#include <string_view>

namespace purekv::server {

struct PageFile {
  std::string_view name;  // "page.js"
  std::string_view body;
};

std::span<const PageFile> PageFiles();

}  // namespace purekv::server
