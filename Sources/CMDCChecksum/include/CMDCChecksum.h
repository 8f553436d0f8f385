// SPDX-License-Identifier: Apache-2.0
#ifndef CMDC_CHECKSUM_H
#define CMDC_CHECKSUM_H
#include <stddef.h>
#include <stdint.h>
#endif
