// Prefixes as files of a directory: of each a .pkv of what was read (docs/pkv.md), and beside it a .json of what it is
// a prefix of. A file is there whole or not at all, whatever ends the process.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/descriptor.h"
#include "purekv/model.h"
#include "serving/prefix.h"

namespace purekv {

// Not thread-safe.
class PrefixDisk {
 public:
  // Makes the directory where there is none, and removes what an earlier process left half written. Throws Error naming
  // it, also when another process has it.
  explicit PrefixDisk(const std::string& directory);

  struct Found {
    std::shared_ptr<const PrefixRecord> record;
    int64_t bytes = 0;
  };
  // Those of this model, the last used first. What is damaged is removed, and `log` told, as it is of what cannot be
  // read (Refused), which stays; so do other models'.
  std::vector<Found> Index(const Model& model, const std::function<void(const std::string&)>& log);
  // Bytes that it takes. Throws Error; nothing of it is there then.
  int64_t Write(const Prefix& prefix);
  // Throws Error where the file is damaged, Refused where it cannot be read now.
  std::shared_ptr<const Prefix> Read(const PrefixRecord& record, const std::shared_ptr<const Model>& model,
                                     int threads) const;
  // For the order of the next Index.
  void Touch(const std::string& id) const;
  void Remove(const std::string& id) const;

  // A .pkv file in the directory that `purekv ingest` made: `name`, without a folder. What it holds is a prefix of a
  // chat of one turn, whose media are known by the file alone. Throws Error.
  std::shared_ptr<const Prefix> OpenFile(const std::string& name, const std::string& owner,
                                         const std::shared_ptr<const Model>& model, int threads) const;

 private:
  std::string PathOf(const std::string& id, const char* end) const;

  const std::string directory_;
  Descriptor lock_;
};

}  // namespace purekv
