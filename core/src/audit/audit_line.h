// The bytes of a line: docs/format.md, "Audit logs".
#ifndef COFFER_AUDIT_AUDIT_LINE_H
#define COFFER_AUDIT_AUDIT_LINE_H

#include "coffer/audit/audit_log.h"

namespace coffer {

constexpr size_t kMaxAuditLine = 32 * 1024;

// What chains: read without the rest, so that appending needs no JSON.
struct AuditFrame {
  uint64_t number = 0;
  Hash previous{}, hash{};
};
// nullopt: malformed, or the line does not have the hash that it says.
std::optional<AuditFrame> audit_frame(std::string_view line);

// Appends the lines of an entry, each with its end, behind `at`, and moves that on.
void append_audit_lines(std::string &out, const AuditEntry &, uint64_t now_ms, Checkpoint &at);

}  // namespace coffer
#endif
