// The child in which a server decodes one medium of a stranger: `purekv media-worker`, started by MediaChild. A decoder
// that is made to do something else does it without files, sockets and other processes, and dies alone.
#pragma once

namespace purekv::server {

// Talks over kChannelDescriptor until it is done. Returns the exit status; throws Error when nobody talks to it.
int RunMediaWorker();

}  // namespace purekv::server
