#include "cli/context_file.h"

#include "engine/context_text.h"

namespace purekv::cli {

const std::optional<std::string>& ContextFile::Text() const {
  if (given() && !text_) text_ = ReadContextFile(path_);
  return text_;
}

}  // namespace purekv::cli
