// This process and others.
#ifndef COFFER_BASE_PROCESS_H
#define COFFER_BASE_PROCESS_H

#include <memory>
#include <string>
#include <string_view>

namespace coffer {

// First of all in every main().  A descriptor 0, 1 or 2 that the caller closed would be taken by the next
// file that is opened, and then be read or written as if it were standard input or output: behind these,
// reading and writing fail instead.
void occupy_standard_streams();
// Nobody reads our memory (no core dump, no debugger of the same user), and a reader that goes away does not
// end us.
void harden_process();
// sd_notify(3): "READY=1".  Without a service manager, nothing.
void notify_service_manager(std::string_view state);

// Who a process is, beyond its pid: "BOOT_ID:PID:START_TIME", which is never used again.
const std::string &process_identity();
// One of several that work in this process at once: "BOOT_ID:PID:START_TIME+N".  Dead when the last copy of
// the pointer has gone.
std::shared_ptr<const std::string> worker_identity();
// Does that process, or worker, live on this host?  Another boot id, a free pid or another start time: no.
bool process_alive(std::string_view identity);

}  // namespace coffer
#endif
