// Entries that a host must refuse, one per BROKEN_* macro, and a witness: the constructor of each writes the
// file named by COFFER_TEST_WITNESS, so a test can tell whether any code of it ran.
#include <coffer/storage.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

namespace {

[[gnu::constructor]] void bear_witness() {
  if (const char *file = ::getenv("COFFER_TEST_WITNESS"))
    if (const int fd = ::open(file, O_WRONLY | O_CREAT, 0600); fd >= 0) ::close(fd);
}

#ifdef BROKEN_UNDEFINED_SYMBOL
extern "C" int coffer_test_function_that_nobody_defines();
#endif

[[maybe_unused]] constexpr coffer_interface_ref kInterfaces[] = {{COFFER_STORAGE_ID, 0}};

constexpr coffer_option kOption = {
#ifdef BROKEN_SHORT_OPTION
    .struct_size = 8,
#else
    .struct_size = sizeof(coffer_option),
#endif
    .type = COFFER_OPT_STRING,
#ifndef BROKEN_OPTION_WITHOUT_KEY
    .key = "text",
#endif
    .min_value = 1,
};
constexpr const coffer_option *kOptions[] = {&kOption};

[[maybe_unused]] constexpr coffer_descriptor kDescriptor = {
#ifdef BROKEN_SHORT_DESCRIPTOR
    .struct_size = 16,
#else
    .struct_size = sizeof(coffer_descriptor),
#endif
    .id = "org.example.broken",
#ifdef BROKEN_NAME
    .name = "bro\nken",
#else
    .name = "broken",
#endif
    .version = "1.0.0",
#ifdef BROKEN_NO_INTERFACE
    .interfaces = nullptr,
    .n_interfaces = 0,
#else
    .interfaces = kInterfaces,
    .n_interfaces = 1,
#endif
    .options = kOptions,
    .n_options = 1,
};

[[maybe_unused]] coffer_status init(const coffer_host *, const coffer_call *call) noexcept {
#ifdef BROKEN_UNDEFINED_SYMBOL
  return coffer_test_function_that_nobody_defines();
#endif
#ifdef BROKEN_INIT
  coffer_error e{};
  e.struct_size = sizeof e;
  e.message = {"no licence", 10};
  call->fail(call, COFFER_FAILED_PRECONDITION, &e);
  return COFFER_FAILED_PRECONDITION;
#endif
  return call ? COFFER_OK : COFFER_INTERNAL;
}

[[maybe_unused]] int backend;
[[maybe_unused]] coffer_status open(const coffer_call *, const coffer_open_args *,
                                    coffer_instance **out) noexcept {
#ifdef BROKEN_OPEN
  *out = nullptr;
#else
  *out = reinterpret_cast<coffer_instance *>(&backend);
#endif
  return COFFER_OK;
}
[[maybe_unused]] void close(coffer_instance *) noexcept {}

coffer_status limits(coffer_instance *, const coffer_call *, coffer_storage_limits *out) noexcept {
#ifdef BROKEN_SMALL_LIMITS
  *out = {sizeof *out, 8, 1024, 1024, 64, 16};
#else
  *out = {sizeof *out, 64, 2 << 20, 2 << 20, 512, 128};
#endif
  return COFFER_OK;
}

// A table of a plugin that knows less than this host; what lies behind struct_size must not be read.
struct Table {
  uint32_t struct_size, minor;
  uint64_t features;
  coffer_status (*limits)(coffer_instance *, const coffer_call *, coffer_storage_limits *) noexcept;
  uint64_t poison[8];
};
constexpr uint64_t kPoison = 0xdeaddeaddeaddeadu;
[[maybe_unused]] constexpr Table kTable = {
#ifdef BROKEN_TINY_TABLE
    8,
#elif defined(BROKEN_HALF_SLOT)
    offsetof(Table, poison) + 4,
#else
    offsetof(Table, poison),
#endif
    0,
    0,
    &limits,
    {kPoison, kPoison, kPoison, kPoison, kPoison, kPoison, kPoison, kPoison}};

[[maybe_unused]] const void *get_interface(coffer_instance *, const char *) noexcept {
#ifdef BROKEN_NO_TABLE
  return nullptr;
#else
  return &kTable;
#endif
}

}  // namespace

#ifdef BROKEN_NO_ENTRY
extern "C" COFFER_EXPORT const int coffer_plugin_entry_v1_of_another_name = 1;
#else
extern "C" COFFER_EXPORT const coffer_plugin_entry coffer_plugin_entry_v1 = {
#ifdef BROKEN_MAGIC
    .magic = 0x21524643u,
#else
    .magic = COFFER_ABI_MAGIC,
#endif
#ifdef BROKEN_SHORT_ENTRY
    .struct_size = 24,
#else
    .struct_size = sizeof(coffer_plugin_entry),
#endif
#ifdef BROKEN_MAJOR
    .abi_major = 2,
#else
    .abi_major = 1,
#endif
#ifdef BROKEN_NEWER_HOST
    .host_minor_min = 7,
#endif
#ifdef BROKEN_NO_DESCRIPTOR
    .descriptor = nullptr,
#else
    .descriptor = &kDescriptor,
#endif
    .init = &init,
#ifdef BROKEN_NO_OPEN
    .open = nullptr,
#else
    .open = &open,
#endif
    .close = &close,
    .get_interface = &get_interface,
};
#endif
