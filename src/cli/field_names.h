// The command line's words for options: what the library's messages name by the path of a field (purekv/error.h,
// "kv.budget") is a flag here ("--kv-budget").
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "purekv/error.h"

namespace purekv::cli {

struct FieldName {
  std::string field;  // a path; one that ends with a dot stands for all below it: "kv.option." for "kv.option.sources"
  std::string flag;   // long name; of a path below: followed by the rest of it, "--kv-option sources"
};
// Every field that a message below cli/ names, each once.
const std::vector<FieldName>& FieldNames();

// `message` as one line in the words of the command line. as_given(flag) says how the user gave the flag ("--fps" or
// "PUREKV_FPS"); empty: by its long name. A path without a flag stays as it is.
std::string InFlags(const Message& message, const std::function<std::string(const std::string& flag)>& as_given = {});

}  // namespace purekv::cli
