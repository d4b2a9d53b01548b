// Client::open() for programs that mostly ask nobody.
// Rationale: Poco and OpenSSL have over 400 pages that the loader writes to at each start, which for a
// command of a few milliseconds is most of its time.
#define BOOST_DLL_USE_STD_FS
#include <boost/dll/shared_library.hpp>
#include <string_view>

#include "server/http/module.h"

namespace coffer::http {

Result<std::unique_ptr<Client>> Client::open(ClientConfig config) {
  static boost::dll::shared_library module;  // never unloaded: clients outlive everything
  std::error_code error;
  if (!module.is_loaded()) module.load(COFFER_HTTP_MODULE, error, boost::dll::load_mode::rtld_now);
  if (error || !module.has(kOpenClient) || !module.has(kModuleVersion) ||
      module.get<const char[sizeof COFFER_VERSION]>(kModuleVersion) != std::string_view(COFFER_VERSION))
    return fail(ErrorCode::kFailedPrecondition,
                std::string(COFFER_HTTP_MODULE) + ", by which an API is asked, " +
                    (error ? "cannot be loaded" : "is of another version"),
                "Install coffer anew, all of it.");
  const std::unique_ptr<OpenedClient> opened(module.get<OpenClient>(kOpenClient)(config));
  return std::move(*opened);
}

}  // namespace coffer::http
