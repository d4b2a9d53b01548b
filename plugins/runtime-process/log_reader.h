// log_reader.h - reads the log of a Machine (format in supervisor.h), through a rotation.
#ifndef COFFER_RUNTIME_PROCESS_LOG_READER_H
#define COFFER_RUNTIME_PROCESS_LOG_READER_H
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "machine_folder.h"

namespace coffer::runtime_process {

class LogReader {
 public:
  // stream 1 out, 2 err; data is a line with its newline, or a part of one.  false = enough.
  using Emit = std::function<bool(uint32_t stream, int64_t time_ns, std::string_view data)>;
  explicit LogReader(int folder);
  // Everything that is complete by now and was not read before; false when `emit` had enough.
  bool read(const Emit &emit);

 private:
  bool read_file(const Emit &emit);
  bool parse(const Emit &emit);
  int folder_;
  Fd file_;
  std::string pending_;
};

}  // namespace coffer::runtime_process
#endif
