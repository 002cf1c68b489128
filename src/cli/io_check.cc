#include "cli/io_check.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <system_error>

#include "base/error.h"
#include "base/file.h"

namespace purekv::cli {
namespace {

namespace fs = std::filesystem;

// Of something that is there, links followed; "" where nothing is.
std::string Inode(const std::string& path) {
  struct stat info {};
  return stat(path.c_str(), &info) == 0 ? StrCat(info.st_dev, ":", info.st_ino) : "";
}

// What is not there is an entry of what is above it.
std::string FileOf(const std::string& target) {
  const std::string inode = Inode(target);
  fs::path path = fs::path(target).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();  // "run/"
  if (!inode.empty() || path.empty() || path == "." || path == path.root_path()) return inode;
  const fs::path parent = path.parent_path();
  return FileOf(parent.empty() ? "." : parent.string()) + "/" + path.filename().string();
}

std::string FolderOf(const std::string& target) {
  const fs::path parent = fs::path(target).parent_path();
  return FileOf(parent.empty() ? "." : parent.string());
}

bool OneOf(const std::string& one, const std::vector<std::string>& list) {
  return std::find(list.begin(), list.end(), one) != list.end();
}

// Everything in it but directories and devices; nothing where it cannot be read, which is said elsewhere.
std::vector<std::string> FilesIn(const std::string& directory) {
  std::vector<std::string> files;
  std::error_code error;
  for (fs::directory_iterator at(directory, error), end; !error && at != end; at.increment(error)) {
    std::error_code none;
    if (!at->is_directory(none)) files.push_back(at->path().string());
  }
  return files;
}

// Whatever is published with a model. Of JSON files only the known names: a profile may lie beside them.
bool MayBeOfAModel(const fs::path& file) {
  static const std::set<std::string> kJson = {"config.json",
                                              "generation_config.json",
                                              "preprocessor_config.json",
                                              "video_preprocessor_config.json",
                                              "processor_config.json",
                                              "tokenizer.json",
                                              "tokenizer_config.json",
                                              "special_tokens_map.json",
                                              "added_tokens.json",
                                              "vocab.json",
                                              "chat_template.json",
                                              "model.safetensors.index.json"};
  const std::string extension = file.extension().string();
  if (extension == ".json") return kJson.contains(file.filename().string());
  return !OneOf(extension, {".npy", ".pkv", ".html", ".svg"});
}

bool MayBeOfARun(const fs::path& file) {
  return !OneOf(file.extension().string(), {".html", ".svg"});
}

}  // namespace

IoCheck::Entry IoCheck::MakeEntry(const std::string& flag, const std::string& path, const std::string& what) {
  if (WrittenInPlace(path)) return {flag, path, what, "", ""};
  const std::string target = ResolveLinks(path);
  return {flag, path, what, FileOf(target), FolderOf(target)};
}

template <class Part>
void IoCheck::InputFiles(const std::string& flag, const std::string& path, const std::string& what, const Part& part) {
  for (const std::string& file : FilesIn(path)) {
    if (part(fs::path(file))) inputs_.push_back(MakeEntry(flag, file, what));
  }
}

void IoCheck::Input(const std::string& flag, const std::string& path) {
  if (!path.empty()) inputs_.push_back(MakeEntry(flag, path, "what " + flag + " reads"));
}

void IoCheck::Model(const std::string& flag, const std::string& path) {
  if (FileExists(path)) return inputs_.push_back(MakeEntry(flag, path, "the model of " + flag));
  InputFiles(flag, path, "a file of the model of " + flag, MayBeOfAModel);
}

void IoCheck::RunDirectory(const std::string& flag, const std::string& path) {
  for (const std::string& directory : {path, JoinPath(path, "frames")}) {
    InputFiles(flag, directory, "a file of the run " + path, MayBeOfARun);
  }
}

void IoCheck::Output(const std::string& flag, const std::string& path) {
  if (!path.empty() && path != "-") outputs_.push_back(MakeEntry(flag, path, "what " + flag + " writes"));
}

void IoCheck::OutputDirectory(const std::string& flag, const std::string& path,
                              const std::vector<std::string>& extensions) {
  if (path.empty()) return;
  Folder folder{flag, path, FileOf(ResolveLinks(path)), extensions, {}};
  for (const std::string& file : FilesIn(path)) {
    if (OneOf(fs::path(file).extension().string(), extensions)) folder.present.push_back(MakeEntry(flag, file, ""));
  }
  folders_.push_back(std::move(folder));
}

void IoCheck::Check() const {
  const auto same = [](const Entry& a, const Entry& b) { return !a.file.empty() && a.file == b.file; };
  for (size_t i = 0; i < outputs_.size(); ++i) {
    const Entry& output = outputs_[i];
    const auto refuse = [&](const Entry& other) {
      if (same(output, other)) FailUsage(output.flag, ": ", output.path, " is ", other.what, "; name another file");
    };
    for (const Entry& input : inputs_) refuse(input);
    for (size_t j = 0; j < i; ++j) refuse(outputs_[j]);
  }
  for (const Folder& folder : folders_) {
    for (const auto* const entries : {&inputs_, &outputs_}) {
      for (const Entry& entry : *entries) {
        const bool in =
            entry.folder == folder.identity && OneOf(fs::path(entry.path).extension().string(), folder.extensions);
        const auto there = std::find_if(folder.present.begin(), folder.present.end(),
                                        [&](const Entry& present) { return same(present, entry); });
        if (!in && there == folder.present.end()) continue;
        std::string files;
        for (const std::string& one : folder.extensions) files += (files.empty() ? "" : " and ") + one;
        FailUsage(folder.flag, ": ", files, " files are written into ", folder.path, ", and ",
                  in ? entry.path : there->path, " is ", entry.what, "; name another directory");
      }
    }
  }
}

}  // namespace purekv::cli
