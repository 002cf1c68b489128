// What a process gives up before it looks at a stranger's file.
#pragma once

#include <cstdint>

namespace purekv::server {

// The system ends this process with its parent, also one that has gone already.
void EndWithParent(int64_t parent);

// Seconds of processor time (SIGXCPU ends it), no core dumps, behind others in the queue for processors. Throws Error.
void LimitProcessor(double seconds);

// Bytes of memory beyond those mapped now. Throws Error. Nothing under a sanitizer that maps all there is.
void LimitMemory(int64_t bytes);

// From now on, for all threads that follow: no file can be opened, no socket made, no program or process started, no
// other process touched: such calls fail with EPERM. What is open can be read and written, and threads be made. By
// seccomp, whose filter is a list of what is allowed. Throws Error where the system has none.
void ForbidAllButComputing();

}  // namespace purekv::server
