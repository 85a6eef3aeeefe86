// Keeps the emulator, and foreign code that breaks out of it, from anything but its own memory and channel.
#ifndef HWC_CONFINE_H
#define HWC_CONFINE_H

// Filters the calls this process and its children may make from now on; returns 0 if the kernel cannot.
int confine(void);

#endif
