// What the host offers to plugins: log, locked memory, random bytes.
#ifndef COFFER_PLUGIN_HOST_HOST_SERVICES_H
#define COFFER_PLUGIN_HOST_HOST_SERVICES_H

#include <coffer/abi.h>

namespace coffer {

const coffer_host &host_services();  // one for the process, constant

}  // namespace coffer
#endif
