// ask --report: the viewer of what was kept, for the question that was asked.
#pragma once

#include <string>

#include "cli/conversation.h"
#include "cli/flag_table.h"

namespace purekv::cli {

// What the viewer needs and other flags rule out. Throws Error (usage).
void CheckAskReport(const FlagTable& table, const ConversationFlags& flags, const std::string& path);
// Asks the full cache the same question, and writes the page. The conversation has answered its only question.
void WriteAskReport(const Conversation& conversation, const std::string& path);

}  // namespace purekv::cli
