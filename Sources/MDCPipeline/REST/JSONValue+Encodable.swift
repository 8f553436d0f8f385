// SPDX-License-Identifier: Apache-2.0

import MDCJSON

extension JSONValue {
    /// The JSON form of a value that always has one.
    init(_ value: some Encodable) {
        self = JSONValue(json: encodeJSON(value)) ?? .null
    }
}
