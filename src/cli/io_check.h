// No result may replace what the command reads, nor another result: all paths of a command, registered with the flags
// that named them and compared by what they are on the disk, whatever they are called.
#pragma once

#include <string>
#include <vector>

namespace purekv::cli {

// Two paths are the same file when they lead to the same inode (links followed, hard links included); where nothing is
// yet, when they name the same entry of the same directory. Devices and pipes are never anybody's. In all of these
// `flag` is how the user gave the path ("--video", "PUREKV_VIDEO"); empty paths and "-" are passed over.
class IoCheck {
 public:
  void Input(const std::string& flag, const std::string& path);
  // A file, or every file of a directory that may be part of a published model. What this program writes there (a
  // profile, a cache, a page, .npy) may be written again.
  void Model(const std::string& flag, const std::string& path);
  // Every file of an evaluation's directory and of its frames, but for pages and charts made of it.
  void RunDirectory(const std::string& flag, const std::string& path);

  void Output(const std::string& flag, const std::string& path);
  // Files with these extensions (".npy") are going to be written into the directory, whatever their names.
  void OutputDirectory(const std::string& flag, const std::string& path, const std::vector<std::string>& extensions);

  // Throws Error (usage) naming both flags and the file.
  void Check() const;

 private:
  struct Entry {
    std::string flag, path;
    std::string what;    // "what --video reads"
    std::string file;    // identity; "" for devices
    std::string folder;  // identity of the directory that it is in
  };
  struct Folder {
    std::string flag, path, identity;
    std::vector<std::string> extensions;
    std::vector<Entry> present;  // those of these extensions that are there now, links among them
  };
  static Entry MakeEntry(const std::string& flag, const std::string& path, const std::string& what);
  template <class Part>
  void InputFiles(const std::string& flag, const std::string& path, const std::string& what, const Part& part);

  std::vector<Entry> inputs_, outputs_;
  std::vector<Folder> folders_;
};

}  // namespace purekv::cli
