// SPDX-License-Identifier: Apache-2.0
#ifndef CMDC_SYSTEM_H
#define CMDC_SYSTEM_H
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#endif
