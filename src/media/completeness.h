// Whether a video file holds what it promises. A player shows what there is of a file that was cut off or has holes,
// and so do we; but who asks about a video should know. Internal to media/.
#pragma once

#include <cstdint>

#include "media/demux.h"

namespace purekv {

struct Completeness {
  int64_t missing = 0;   // frames that the file promises beyond those in the index
  bool cut_off = false;  // the file ends before its own structure does
};

// From the container's structure and the index, without decoding:
//  - MP4 and MOV: samples of the sample table that lie behind the file's end (edit lists are applied by then);
//  - Matroska, AVI, MP4, MPEG-TS: the outermost element, chunk, box or packet reaches beyond the file's end;
//  - AVI: the header's frame count, less the empty chunks that stand for dropped frames;
//  - others: where nearly all frames follow one another at one distance, gaps of at least kGapFrames frames, also
//    between the last one and the end that the container states. (Variable rates have gaps of their own: nothing is
//    concluded from those. A single dropped frame is nothing to report.)
// An MPEG-TS that was cut between two packets, or a stream without any container, promises nothing.
Completeness CheckCompleteness(const Demuxer& demuxer, const PacketIndex& index);

}  // namespace purekv
