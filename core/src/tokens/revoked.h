// The file of revoked token ids: a line of 32 hex digits each, appended durably, never shortened.
#ifndef COFFER_TOKENS_REVOKED_H
#define COFFER_TOKENS_REVOKED_H

#include <filesystem>

#include "coffer/base/bytes.h"
#include "coffer/base/result.h"

namespace coffer {

class RevokedIds {
 public:
  static Result<RevokedIds> read(const std::filesystem::path &file);  // no such file: none
  static Result<void> add(const std::filesystem::path &file, ByteSpan id);
  bool contains(ByteSpan id) const { return lines_.find(hex(id) + "\n") != lines_.npos; }

 private:
  explicit RevokedIds(std::string lines) : lines_(std::move(lines)) {}
  std::string lines_;
};

}  // namespace coffer
#endif
