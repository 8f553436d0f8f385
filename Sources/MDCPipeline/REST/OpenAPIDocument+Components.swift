// SPDX-License-Identifier: Apache-2.0

extension OpenAPIDocument {
    /// The second half of the document: how keys are sent, and the shapes of what is sent and answered.
    static let components = #"""
          "components": {
            "securitySchemes": {
              "apiKey": {
                "type": "http",
                "scheme": "bearer",
                "description": "`mdc apikey create` makes one."
              }
            },
            "responses": {
              "Problem": {
                "description": "What is wrong, and what helps (RFC 9457).",
                "content": {
                  "application/problem+json": {
                    "schema": {
                      "$ref": "#/components/schemas/Problem"
                    }
                  }
                }
              },
              "TryAgain": {
                "description": "What is wrong, and what helps (RFC 9457).",
                "content": {
                  "application/problem+json": {
                    "schema": {
                      "$ref": "#/components/schemas/Problem"
                    }
                  }
                },
                "headers": {
                  "Retry-After": {
                    "description": "Seconds.",
                    "schema": {
                      "type": "integer",
                      "minimum": 0
                    }
                  }
                }
              }
            },
            "schemas": {
              "Channel": {"type": "string", "enum": ["sms", "email", "push"]},
              "Status": {
                "type": "string",
                "enum": [
                  "scheduled",
                  "queued",
                  "accepted",
                  "retrying",
                  "delivered",
                  "sent",
                  "failed",
                  "expired",
                  "cancelled"
                ]
              },
              "Attachment": {
                "type": "object",
                "required": ["name", "contentType", "data"],
                "additionalProperties": false,
                "properties": {
                  "name": {"type": "string", "description": "The file's name."},
                  "contentType": {"type": "string", "description": "Its media type, such as application/pdf."},
                  "data": {"type": "string", "contentEncoding": "base64", "description": "Its bytes."},
                  "contentID": {
                    "type": "string",
                    "description": "For an image within the HTML, which names it as cid:…"
                  }
                }
              },
              "Variant": {
                "type": "object",
                "additionalProperties": false,
                "description": "Each text is a Mustache template.",
                "properties": {
                  "subject": {"type": "string"},
                  "text": {"type": "string"},
                  "html": {"type": "string"},
                  "title": {"type": "string"},
                  "data": {"type": "object", "additionalProperties": {"type": "string"}}
                }
              },
              "Template": {
                "type": "object",
                "required": ["name", "channel", "version", "defaultLocale", "variants", "updatedAt", "versions"],
                "additionalProperties": false,
                "properties": {
                  "name": {"type": "string"},
                  "tenant": {"type": "string", "description": "Not there: for all."},
                  "channel": {"$ref": "#/components/schemas/Channel"},
                  "version": {"type": "integer", "minimum": 1},
                  "defaultLocale": {"type": "string"},
                  "variants": {
                    "type": "object",
                    "additionalProperties": {"$ref": "#/components/schemas/Variant"}
                  },
                  "updatedAt": {"type": "integer", "format": "int64", "description": "Milliseconds since 1970."},
                  "versions": {"type": "array", "items": {"type": "integer"}}
                }
              },
              "TemplateDraft": {
                "type": "object",
                "required": ["channel", "variants"],
                "properties": {
                  "channel": {"$ref": "#/components/schemas/Channel"},
                  "defaultLocale": {
                    "type": "string",
                    "description": "For recipients in whose language there is no variant; needed if there are several."
                  },
                  "variants": {
                    "type": "object",
                    "minProperties": 1,
                    "maxProperties": 64,
                    "additionalProperties": {"$ref": "#/components/schemas/Variant"}
                  }
                }
              },
              "TemplateList": {
                "type": "object",
                "required": ["templates"],
                "additionalProperties": false,
                "properties": {
                  "templates": {
                    "type": "array",
                    "items": {
                      "type": "object",
                      "required": ["name", "channel", "version", "defaultLocale", "locales", "updatedAt"],
                      "additionalProperties": false,
                      "properties": {
                        "name": {"type": "string"},
                        "tenant": {"type": "string"},
                        "channel": {"$ref": "#/components/schemas/Channel"},
                        "version": {"type": "integer"},
                        "defaultLocale": {"type": "string"},
                        "locales": {"type": "array", "items": {"type": "string"}},
                        "updatedAt": {"type": "integer", "format": "int64"}
                      }
                    }
                  }
                }
              },
              "Content": {
                "type": "object",
                "additionalProperties": false,
                "properties": {
                  "subject": {
                    "type": "string",
                    "description": "Mail: the subject."
                  },
                  "text": {
                    "type": "string",
                    "description": "What the recipient reads."
                  },
                  "html": {
                    "type": "string",
                    "description": "Mail: the same as HTML."
                  },
                  "title": {
                    "type": "string",
                    "description": "Push: the title."
                  },
                  "data": {
                    "type": "object",
                    "additionalProperties": {
                      "type": "string"
                    },
                    "description": "Push: values for the app."
                  },
                  "attachments": {
                    "type": "array",
                    "maxItems": 20,
                    "items": {"$ref": "#/components/schemas/Attachment"},
                    "description": "Mail: files that come with it."
                  }
                }
              },
              "RetryPolicy": {
                "type": "object",
                "properties": {
                  "attemptsMax": {"type": "integer"},
                  "backoffMilliseconds": {
                    "type": "integer"
                  },
                  "backoffMaxMilliseconds": {
                    "type": "integer"
                  },
                  "receiptTimeoutMilliseconds": {
                    "type": "integer"
                  },
                  "onReceiptTimeout": {
                    "type": "string",
                    "enum": [
                      "retry",
                      "expire"
                    ]
                  },
                  "onInDoubt": {
                    "type": "string",
                    "enum": [
                      "retry",
                      "expire"
                    ]
                  }
                }
              },
              "Draft": {
                "type": "object",
                "required": ["channel", "to"],
                "additionalProperties": false,
                "properties": {
                  "channel": {
                    "$ref": "#/components/schemas/Channel"
                  },
                  "to": {
                    "type": "string",
                    "description": "A phone number in international form, a mail address or a device token."
                  },
                  "content": {
                    "$ref": "#/components/schemas/Content"
                  },
                  "tenant": {
                    "type": "string",
                    "description": "Whose message it is; only for keys that act for all tenants."
                  },
                  "lane": {
                    "type": "string",
                    "description": "The priority lane."
                  },
                  "sender": {
                    "type": "string",
                    "description": "The originator that is shown."
                  },
                  "template": {
                    "type": "string",
                    "description": "The template that makes the text, where there is no content; beside content, a name for rules."
                  },
                  "templateVersion": {
                    "type": "integer",
                    "minimum": 1,
                    "description": "The version of the template; not there: the latest."
                  },
                  "locale": {
                    "type": "string",
                    "description": "The recipient's language, for the variant of the template."
                  },
                  "variables": {
                    "type": "object",
                    "description": "What the template is filled in with."
                  },
                  "category": {
                    "type": "string",
                    "description": "What kind of message it is, such as marketing: rules may ask for it."
                  },
                  "timeZone": {
                    "type": "string",
                    "description": "The recipient's time zone, for quiet hours; not there: that of the number's country."
                  },
                  "idempotencyKey": {
                    "type": "string",
                    "description": "Two messages of a tenant with the same key are one."
                  },
                  "sendAt": {
                    "type": "integer",
                    "format": "int64",
                    "description": "Not before. Milliseconds since 1970."
                  },
                  "expiresAt": {
                    "type": "integer",
                    "format": "int64",
                    "description": "Not after. Milliseconds since 1970."
                  },
                  "retryPolicy": {
                    "$ref": "#/components/schemas/RetryPolicy"
                  },
                  "feedbackURL": {
                    "type": "string",
                    "description": "Kept with the message."
                  }
                }
              },
              "Message": {
                "type": "object",
                "additionalProperties": false,
                "description": "Members without a value are left out.",
                "properties": {
                  "id": {"type": "string"},
                  "channel": {
                    "$ref": "#/components/schemas/Channel"
                  },
                  "status": {
                    "$ref": "#/components/schemas/Status"
                  },
                  "attempt": {
                    "type": "integer",
                    "minimum": 1
                  },
                  "tenant": {"type": "string"},
                  "lane": {"type": "string"},
                  "to": {"type": "string"},
                  "sender": {"type": "string"},
                  "content": {
                    "$ref": "#/components/schemas/Content"
                  },
                  "subject": {"type": "string"},
                  "template": {"type": "string"},
                  "templateSource": {
                    "type": "object",
                    "description": "Which version and variant of the template made the content.",
                    "properties": {
                      "version": {"type": "integer"},
                      "locale": {"type": "string"},
                      "digest": {"type": "string"}
                    }
                  },
                  "category": {"type": "string"},
                  "timeZone": {"type": "string"},
                  "idempotencyKey": {"type": "string"},
                  "provider": {"type": "string"},
                  "providerMessageID": {"type": "string"},
                  "code": {
                    "type": "string",
                    "description": "What was said last, as a code."
                  },
                  "detail": {
                    "type": "string",
                    "description": "For people: what was said last."
                  },
                  "feedbackURL": {"type": "string"},
                  "sendAt": {
                    "type": "integer",
                    "format": "int64",
                    "description": "Not before. Milliseconds since 1970."
                  },
                  "expiresAt": {
                    "type": "integer",
                    "format": "int64",
                    "description": "Not after. Milliseconds since 1970."
                  },
                  "createdAt": {
                    "type": "integer",
                    "format": "int64",
                    "description": "Accepted by the centre. Milliseconds since 1970."
                  },
                  "updatedAt": {
                    "type": "integer",
                    "format": "int64",
                    "description": "When anything last happened. Milliseconds since 1970."
                  },
                  "dueAt": {
                    "type": "integer",
                    "format": "int64",
                    "description": "When the next thing is due. Milliseconds since 1970."
                  },
                  "finalAt": {
                    "type": "integer",
                    "format": "int64",
                    "description": "When it came to its end. Milliseconds since 1970."
                  },
                  "cost": {
                    "type": "integer",
                    "format": "int64",
                    "description": "What its attempts have cost, in millionths of the unit of the prices."
                  }
                }
              },
              "Event": {
                "type": "object",
                "required": [
                  "messageID",
                  "channel",
                  "at",
                  "component",
                  "kind",
                  "attempt"
                ],
                "properties": {
                  "messageID": {"type": "string"},
                  "channel": {
                    "$ref": "#/components/schemas/Channel"
                  },
                  "at": {
                    "type": "integer",
                    "format": "int64",
                    "description": "When it happened. Milliseconds since 1970."
                  },
                  "component": {"type": "string"},
                  "kind": {
                    "type": "string",
                    "enum": [
                      "submitted",
                      "scheduled",
                      "dispatched",
                      "redelivered", "rerouted", "cancelRequested", "cancelRefused",
                      "accepted",
                      "rejected",
                      "deferred",
                      "inDoubt",
                      "withheld",
                      "receipt",
                      "receiptIgnored",
                      "receiptMissing",
                      "retryScheduled",
                      "final"
                    ]
                  },
                  "attempt": {"type": "integer", "minimum": 1},
                  "status": {
                    "$ref": "#/components/schemas/Status"
                  },
                  "leadsTo": {
                    "$ref": "#/components/schemas/Status"
                  },
                  "provider": {"type": "string"},
                  "providerMessageID": {"type": "string"},
                  "code": {"type": "string"},
                  "detail": {"type": "string"},
                  "dueAt": {
                    "type": "integer",
                    "format": "int64",
                    "description": "When the next step is due. Milliseconds since 1970."
                  },
                  "cost": {
                    "type": "integer",
                    "format": "int64",
                    "description": "What the attempt cost, in millionths of the unit of the prices."
                  },
                  "message": {
                    "type": "object",
                    "description": "The document, with submitted in the event stream only."
                  }
                }
              },
              "Detail": {
                "type": "object",
                "required": ["field", "message"],
                "additionalProperties": false,
                "properties": {
                  "field": {"type": "string"},
                  "message": {"type": "string"}
                }
              },
              "Problem": {
                "type": "object",
                "required": ["type", "title", "status", "detail"],
                "additionalProperties": false,
                "properties": {
                  "type": {"type": "string"},
                  "title": {"type": "string"},
                  "status": {"type": "integer"},
                  "detail": {
                    "type": "string",
                    "description": "What is wrong and how to fix it."
                  },
                  "errors": {
                    "type": "array",
                    "items": {
                      "$ref": "#/components/schemas/Detail"
                    }
                  }
                }
              },
              "Receipt": {
                "type": "object",
                "required": ["id", "lane", "duplicate", "warnings"],
                "additionalProperties": false,
                "properties": {
                  "id": {"type": "string"},
                  "lane": {"type": "string"},
                  "duplicate": {
                    "type": "boolean",
                    "description": "A message with this key was accepted before: nothing was sent anew."
                  },
                  "scheduledFor": {
                    "type": "integer",
                    "format": "int64",
                    "description": "When it will be dispatched. Milliseconds since 1970."
                  },
                  "segments": {"type": "integer"},
                  "encoding": {
                    "type": "string",
                    "enum": ["gsm7", "ucs2"],
                    "description": "SMS: the alphabet that the text needs."
                  },
                  "templateVersion": {"type": "integer"},
                  "locale": {"type": "string", "description": "The variant of the template that was taken."},
                  "warnings": {
                    "type": "array",
                    "items": {
                      "$ref": "#/components/schemas/Detail"
                    }
                  }
                }
              },
              "BulkResult": {
                "type": "object",
                "required": ["accepted", "rejected", "results"],
                "additionalProperties": false,
                "properties": {
                  "accepted": {"type": "integer"},
                  "rejected": {"type": "integer"},
                  "results": {
                    "type": "array",
                    "items": {
                      "type": "object",
                      "required": [
                        "index",
                        "status"
                      ],
                      "additionalProperties": false,
                      "properties": {
                        "index": {
                          "type": "integer"
                        },
                        "status": {
                          "type": "integer"
                        },
                        "receipt": {
                          "$ref": "#/components/schemas/Receipt"
                        },
                        "problem": {
                          "$ref": "#/components/schemas/Problem"
                        }
                      }
                    }
                  }
                }
              },
              "Page": {
                "type": "object",
                "required": ["messages", "page", "pagesize"],
                "additionalProperties": false,
                "properties": {
                  "messages": {
                    "type": "array",
                    "items": {
                      "$ref": "#/components/schemas/Message"
                    }
                  },
                  "page": {"type": "integer"},
                  "pagesize": {"type": "integer"},
                  "count": {
                    "type": "integer",
                    "description": "With count=true: messages of all pages."
                  }
                }
              },
              "Timeline": {
                "type": "object",
                "required": ["id", "events"],
                "additionalProperties": false,
                "properties": {
                  "id": {"type": "string"},
                  "events": {
                    "type": "array",
                    "items": {
                      "$ref": "#/components/schemas/Event"
                    }
                  }
                }
              },
              "Report": {
                "type": "object",
                "required": ["report", "columns", "rows"],
                "additionalProperties": false,
                "properties": {
                  "report": {"type": "string"},
                  "columns": {
                    "type": "array",
                    "items": {"type": "string"}
                  },
                  "rows": {
                    "type": "array",
                    "items": {
                      "type": "object",
                      "additionalProperties": {
                        "type": [
                          "string",
                          "number",
                          "null"
                        ]
                      }
                    }
                  }
                }
              }
            }
          }
        }
        """#
}
