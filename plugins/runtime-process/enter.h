/* enter.h - runs one command inside a started Machine, with the app's own environment. */
#ifndef COFFER_RUNTIME_PROCESS_ENTER_H
#define COFFER_RUNTIME_PROCESS_ENTER_H

/* Descriptors 0, 1, 2 are the command's, FD_STATUS hears STEP_RUNNING and then STEP_OK with the exit code, or
 * one failure.  The command and all it started end with it, with the Machine, or when nobody reads FD_STATUS
 * any more.  `workdir` "" = the app's. */
int enter(const char *workdir, char **argv);
#endif
