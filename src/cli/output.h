// Where results go: checks before the work starts, writing after it.
#pragma once

#include <string>
#include <string_view>

namespace purekv::cli {

// Throw Error (failed) naming the path and the system's reason.
void CheckReadableFile(const std::string& path);
// A directory or a file.
void CheckReadableModel(const std::string& path);
// `flag` is named in the message. The file itself is not created, nor an existing one touched.
void CheckWritableFile(const std::string& flag, const std::string& path);
// Creates the directory (and those above it) when it is not there.
void CheckWritableDirectory(const std::string& flag, const std::string& path);

// Writes a whole file as WriteFile does; a Ctrl-C waits until it is there, so that no temporary stays. "-" is stdout.
// Throws Error.
void WriteOutput(const std::string& path, std::string_view contents);

// Writes to stdout at once. Throws Error when that fails (a full disk, a closed file).
void Print(std::string_view text);

// "512 B", "14.2 MiB".
std::string HumanBytes(double bytes);

}  // namespace purekv::cli
