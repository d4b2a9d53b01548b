// Who a process is, beyond its pid: boot id, pid and start time together are never used again.
#ifndef COFFER_BASE_PROCESS_H
#define COFFER_BASE_PROCESS_H

#include <string>
#include <string_view>

namespace coffer {

// "BOOT_ID:PID:START_TIME" of this process.
const std::string &process_identity();
// Does that process live on this host?  Another boot id, a free pid or another start time: no.
bool process_alive(std::string_view identity);

}  // namespace coffer
#endif
