// SPDX-License-Identifier: Apache-2.0

/// The description of the HTTP interface, OpenAPI 3.1, as `/openapi.json` serves it. Tests compare it with
/// routes and answers.
enum OpenAPIDocument {
    static let text = paths + templatePaths + lastPaths + components

    private static let paths = #"""
        {
          "openapi": "3.1.0",
          "info": {
            "title": "MDC message centre",
            "version": "1",
            "description": "Submission, queries, reports and events of messages. Requests carry an API key: \#
        Authorization: Bearer mdc_…",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}
          },
          "servers": [{"url": "/"}],
          "security": [{"apiKey": []}],
          "paths": {
            "/v1/messages": {
              "post": {
                "operationId": "submit",
                "summary": "Submits one message or up to 1000.",
                "description": "Scope messages:write. Answered once what was accepted is durable. A bulk has a \#
        result for each message.",
                "parameters": [
                  {
                    "name": "Idempotency-Key",
                    "in": "header",
                    "schema": {
                      "type": "string",
                      "minLength": 1,
                      "maxLength": 200
                    },
                    "description": "Makes a repeated request harmless; the messages of a bulk get the key with \#
        their index."
                  }
                ],
                "requestBody": {
                  "required": true,
                  "content": {
                    "application/json": {
                      "schema": {
                        "oneOf": [
                          {
                            "$ref": "#/components/schemas/Draft"
                          },
                          {
                            "type": "array",
                            "items": {
                              "$ref": "#/components/schemas/Draft"
                            },
                            "minItems": 1,
                            "maxItems": 1000
                          },
                          {
                            "type": "object",
                            "required": [
                              "messages"
                            ],
                            "additionalProperties": false,
                            "properties": {
                              "messages": {
                                "type": "array",
                                "items": {
                                  "$ref": "#/components/schemas/Draft"
                                },
                                "minItems": 1,
                                "maxItems": 1000
                              }
                            }
                          }
                        ]
                      }
                    }
                  }
                },
                "responses": {
                  "200": {
                    "description": "Accepted before under the same key.",
                    "content": {
                      "application/json": {
                        "schema": {
                          "$ref": "#/components/schemas/Receipt"
                        }
                      }
                    }
                  },
                  "202": {
                    "description": "Accepted.",
                    "content": {
                      "application/json": {
                        "schema": {
                          "oneOf": [
                            {
                              "$ref": "#/components/schemas/Receipt"
                            },
                            {
                              "$ref": "#/components/schemas/BulkResult"
                            }
                          ]
                        }
                      }
                    }
                  },
                  "207": {
                    "description": "Some are accepted.",
                    "content": {
                      "application/json": {
                        "schema": {
                          "$ref": "#/components/schemas/BulkResult"
                        }
                      }
                    }
                  },
                  "413": {
                    "$ref": "#/components/responses/Problem"
                  },
                  "415": {
                    "$ref": "#/components/responses/Problem"
                  },
                  "422": {
                    "description": "It cannot be sent as it is.",
                    "content": {
                      "application/problem+json": {
                        "schema": {
                          "$ref": "#/components/schemas/Problem"
                        }
                      },
                      "application/json": {
                        "schema": {
                          "$ref": "#/components/schemas/BulkResult"
                        }
                      }
                    }
                  },
                  "400": {
                    "$ref": "#/components/responses/Problem"
                  },
                  "401": {
                    "$ref": "#/components/responses/Problem"
                  },
                  "403": {
                    "$ref": "#/components/responses/Problem"
                  },
                  "429": {
                    "$ref": "#/components/responses/TryAgain"
                  },
                  "503": {
                    "$ref": "#/components/responses/TryAgain"
                  }
                }
              },
              "get": {
                "operationId": "list",
                "summary": "Lists messages.",
                "description": "Scope messages:read.",
                "parameters": [
                  {
                    "name": "filter",
                    "in": "query",
                    "description": "A JSON object over the declared fields: equality, $eq, $ne, $gt, $gte, $lt, \#
        $lte, $in, $nin, $exists, $regex (limited, with $options i), $and, $or. Several filters must all be true.",
                    "schema": {
                      "type": "array",
                      "items": {
                        "type": "string",
                        "maxLength": 8192
                      },
                      "maxItems": 8
                    },
                    "style": "form",
                    "explode": true
                  },
                  {
                    "name": "sort",
                    "in": "query",
                    "description": "-createdAt,lane, or a JSON object with one member (default -createdAt).",
                    "schema": {"type": "string"}
                  },
                  {
                    "name": "keys",
                    "in": "query",
                    "description": "Members to have (id,status), or a JSON object with 1 to have, 0 to leave out.",
                    "schema": {"type": "string"}
                  },
                  {
                    "name": "page",
                    "in": "query",
                    "description": "From 1.",
                    "schema": {
                      "type": "integer",
                      "minimum": 1,
                      "default": 1
                    }
                  },
                  {
                    "name": "pagesize",
                    "in": "query",
                    "description": "Messages of a page.",
                    "schema": {
                      "type": "integer",
                      "minimum": 1,
                      "maximum": 1000,
                      "default": 100
                    }
                  },
                  {
                    "name": "count",
                    "in": "query",
                    "description": "Whether to count the messages of all pages.",
                    "schema": {
                      "type": "boolean",
                      "default": false
                    }
                  },
                  {
                    "name": "If-None-Match",
                    "in": "header",
                    "schema": {"type": "string"},
                    "description": "The ETag that is known: 304 if nothing changed."
                  }
                ],
                "responses": {
                  "200": {
                    "description": "A page.",
                    "content": {
                      "application/json": {
                        "schema": {
                          "$ref": "#/components/schemas/Page"
                        }
                      }
                    },
                    "headers": {
                      "ETag": {
                        "schema": {
                          "type": "string"
                        }
                      }
                    }
                  },
                  "304": {"description": "Nothing changed."},
                  "400": {
                    "$ref": "#/components/responses/Problem"
                  },
                  "401": {
                    "$ref": "#/components/responses/Problem"
                  },
                  "403": {
                    "$ref": "#/components/responses/Problem"
                  },
                  "429": {
                    "$ref": "#/components/responses/TryAgain"
                  },
                  "503": {
                    "$ref": "#/components/responses/TryAgain"
                  }
                }
              }
            },
            "/v1/messages/{id}": {
              "get": {
                "operationId": "get",
                "summary": "One message.",
                "description": "Scope messages:read.",
                "parameters": [
                  {
                    "name": "id",
                    "in": "path",
                    "required": true,
                    "schema": {"type": "string"},
                    "description": "The id of the message."
                  },
                  {
                    "name": "keys",
                    "in": "query",
                    "description": "Members to have (id,status), or a JSON object with 1 to have, 0 to leave out.",
                    "schema": {"type": "string"}
                  },
                  {
                    "name": "If-None-Match",
                    "in": "header",
                    "schema": {"type": "string"},
                    "description": "The ETag that is known: 304 if nothing changed."
                  }
                ],
                "responses": {
                  "200": {
                    "description": "The message.",
                    "content": {
                      "application/json": {
                        "schema": {
                          "$ref": "#/components/schemas/Message"
                        }
                      }
                    },
                    "headers": {
                      "ETag": {
                        "schema": {
                          "type": "string"
                        }
                      }
                    }
                  },
                  "304": {"description": "Nothing changed."},
                  "400": {
                    "$ref": "#/components/responses/Problem"
                  },
                  "404": {
                    "$ref": "#/components/responses/Problem"
                  },
                  "401": {
                    "$ref": "#/components/responses/Problem"
                  },
                  "403": {
                    "$ref": "#/components/responses/Problem"
                  },
                  "429": {
                    "$ref": "#/components/responses/TryAgain"
                  },
                  "503": {
                    "$ref": "#/components/responses/TryAgain"
                  }
                }
              }
            },
            "/v1/messages/{id}/timeline": {
              "get": {
                "operationId": "timeline",
                "summary": "What happened to a message.",
                "description": "Scope messages:read.",
                "parameters": [
                  {
                    "name": "id",
                    "in": "path",
                    "required": true,
                    "schema": {"type": "string"},
                    "description": "The id of the message."
                  },
                  {
                    "name": "If-None-Match",
                    "in": "header",
                    "schema": {"type": "string"},
                    "description": "The ETag that is known: 304 if nothing changed."
                  }
                ],
                "responses": {
                  "200": {
                    "description": "The events in order of time.",
                    "content": {
                      "application/json": {
                        "schema": {
                          "$ref": "#/components/schemas/Timeline"
                        }
                      }
                    },
                    "headers": {
                      "ETag": {
                        "schema": {
                          "type": "string"
                        }
                      }
                    }
                  },
                  "304": {
                    "description": "Nothing changed."
                  },
                  "400": {
                    "$ref": "#/components/responses/Problem"
                  },
                  "404": {
                    "$ref": "#/components/responses/Problem"
                  },
                  "401": {
                    "$ref": "#/components/responses/Problem"
                  },
                  "403": {
                    "$ref": "#/components/responses/Problem"
                  },
                  "429": {
                    "$ref": "#/components/responses/TryAgain"
                  },
                  "503": {
                    "$ref": "#/components/responses/TryAgain"
                  }
                }
              }
            },
            "/v1/reports/{report}": {
              "get": {
                "operationId": "report",
                "summary": "Counts and latencies.",
                "description": "Scope reports:read. JSON, or CSV with Accept: text/csv.",
                "parameters": [
                  {
                    "name": "report",
                    "in": "path",
                    "required": true,
                    "schema": {
                      "type": "string",
                      "enum": [
                        "delivery",
                        "latency",
                        "failures",
                        "cost"
                      ]
                    }
                  },
                  {
                    "name": "filter",
                    "in": "query",
                    "description": "A JSON object over the declared fields: equality, $eq, $ne, $gt, $gte, $lt, \#
        $lte, $in, $nin, $exists, $regex (limited, with $options i), $and, $or. Several filters must all be true.",
                    "schema": {
                      "type": "array",
                      "items": {
                        "type": "string",
                        "maxLength": 8192
                      },
                      "maxItems": 8
                    },
                    "style": "form",
                    "explode": true
                  },
                  {
                    "name": "group",
                    "in": "query",
                    "description": "Of these, separated by commas: channel, lane, tenant, provider, template, \#
        country, minute, hour, day.",
                    "schema": {"type": "string"}
                  },
                  {
                    "name": "from",
                    "in": "query",
                    "description": "Created at or after: ISO 8601 or milliseconds since 1970.",
                    "schema": {"type": "string"}
                  },
                  {
                    "name": "to",
                    "in": "query",
                    "description": "Created before.",
                    "schema": {"type": "string"}
                  },
                  {
                    "name": "If-None-Match",
                    "in": "header",
                    "schema": {"type": "string"},
                    "description": "The ETag that is known: 304 if nothing changed."
                  }
                ],
                "responses": {
                  "200": {
                    "description": "The report.",
                    "headers": {
                      "ETag": {
                        "schema": {
                          "type": "string"
                        }
                      }
                    },
                    "content": {
                      "application/json": {
                        "schema": {
                          "$ref": "#/components/schemas/Report"
                        }
                      },
                      "text/csv": {
                        "schema": {
                          "type": "string"
                        }
                      }
                    }
                  },
                  "304": {
                    "description": "Nothing changed."
                  },
                  "400": {
                    "$ref": "#/components/responses/Problem"
                  },
                  "404": {
                    "$ref": "#/components/responses/Problem"
                  },
                  "401": {
                    "$ref": "#/components/responses/Problem"
                  },
                  "403": {
                    "$ref": "#/components/responses/Problem"
                  },
                  "429": {
                    "$ref": "#/components/responses/TryAgain"
                  },
                  "503": {
                    "$ref": "#/components/responses/TryAgain"
                  }
                }
              }
            },
            "/v1/events": {
              "get": {
                "operationId": "events",
                "summary": "Follows the events as they happen.",
                "description": "Scope events:read. Server-sent events; event is the kind, data an Event, id the \#
        place to go on from.",
                "parameters": [
                  {
                    "name": "channel",
                    "in": "query",
                    "description": "Only this channel.",
                    "schema": {
                      "$ref": "#/components/schemas/Channel"
                    }
                  },
                  {
                    "name": "kind",
                    "in": "query",
                    "description": "Only these kinds, separated by commas.",
                    "schema": {"type": "string"}
                  },
                  {
                    "name": "from",
                    "in": "query",
                    "description": "Where to begin without Last-Event-ID.",
                    "schema": {
                      "type": "string",
                      "enum": ["latest", "earliest"],
                      "default": "latest"
                    }
                  },
                  {
                    "name": "Last-Event-ID",
                    "in": "header",
                    "schema": {"type": "string"},
                    "description": "The id of the last event that was received."
                  }
                ],
                "responses": {
                  "200": {
                    "description": "The stream.",
                    "content": {
                      "text/event-stream": {
                        "schema": {
                          "type": "string"
                        }
                      }
                    }
                  },
                  "400": {"$ref": "#/components/responses/Problem"},
                  "401": {"$ref": "#/components/responses/Problem"},
                  "403": {"$ref": "#/components/responses/Problem"},
                  "429": {
                    "$ref": "#/components/responses/TryAgain"
                  },
                  "503": {
                    "$ref": "#/components/responses/TryAgain"
                  }
                }
              }
            },

        """#

    private static let lastPaths = #"""
            "/openapi.json": {
              "get": {
                "operationId": "description",
                "summary": "This document.",
                "security": [],
                "responses": {
                  "200": {
                    "description": "The description.",
                    "content": {
                      "application/json": {
                        "schema": {
                          "type": "object"
                        }
                      }
                    }
                  }
                }
              }
            }
          },

        """#
}
