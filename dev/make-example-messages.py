#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes Examples/messages.csv: the same bytes every time.

All recipients are fictional: phone numbers from ranges reserved for drama (UK +44 7700 900xxx, US +1 xxx 555 01xx,
France +33 6 39 98 xx xx), mail under example.com, .org and .net, and made-up device tokens.
"""
import csv
import json
import os
import random

COLUMNS = [
    "channel", "lane", "to", "sender", "subject", "text", "html", "title", "data", "template", "idempotency_key",
    "send_at", "expires_at", "attempts_max", "backoff", "receipt_timeout",
]
rng = random.Random(20260101)

FIRST = ["Asha", "Ravi", "Meera", "Jonas", "Käthe", "Søren", "Zoë", "Omar", "Layla", "Yuki", "Chloé", "Nils", "Ines",
         "Paweł", "Anaïs", "Tomás", "Priya", "Arjun", "Fatima", "Lukas"]
LAST = ["Sharma", "Iyer", "Müller", "Nowak", "García", "Okafor", "Haddad", "Tanaka", "Smith", "Jansen", "Öztürk",
        "Rossi", "Dubois", "Silva", "Kim", "Novák"]
ASCII = str.maketrans({"ä": "a", "ö": "o", "ü": "u", "é": "e", "ï": "i", "ë": "e", "ø": "o", "ł": "l", "á": "a",
                       "í": "i", "Ö": "O", "ü": "u"})
AREAS = ["202", "206", "212", "303", "305", "312", "404", "415", "503", "512", "602", "617", "702", "713", "801", "917"]
LANES = ["critical", "high", "normal", "bulk"]
LANE_WEIGHTS = [15, 25, 35, 25]

OTP = [
    "{code} is your login code. It is valid for 5 minutes. Never share it.",
    "आपका लॉगिन कोड {code} है। यह 5 मिनट तक मान्य है। इसे किसी को न बताएं।",
    "Ihr Anmeldecode lautet {code}. Er gilt 5 Minuten. Geben Sie ihn nie weiter.",
    "رمز الدخول الخاص بك هو {code}. صالح لمدة 5 دقائق.",
    "Votre code est {code}. Ne le communiquez à personne.",
    "ログインコードは {code} です。5分間有効です。",
]
ALERT = [
    "Your order {order} has left our warehouse and arrives tomorrow between 10 and 12.",
    "आपका ऑर्डर {order} रवाना हो चुका है और कल पहुंचेगा।",
    "Ihre Bestellung {order} ist unterwegs und kommt morgen zwischen 10 und 12 Uhr an. Grüße!",
    "طلبك رقم {order} في الطريق وسيصل غدا.",
    "Gate change: flight XX{num} to Łódź now boards at gate B{gate} ✈️",
    "Payment of €{num}.40 received for order {order}. Thank you!",
]
INFO = [
    "Hello {name}, your appointment on Thursday at 14:30 is confirmed. Reply C to change it.",
    "नमस्ते {name}, आपकी अपॉइंटमेंट गुरुवार दोपहर 2:30 बजे पक्की है।",
    "Hallo {name}, Ihr Termin am Donnerstag um 14:30 Uhr ist bestätigt. Bis bald!",
    "مرحبا {name}، تم تأكيد موعدك يوم الخميس الساعة 14:30.",
    "Hej {name}, din tid på torsdag kl. 14.30 är bekräftad 👍",
    "Dear {name}, your monthly statement is ready. Balance: £{num}.12 [incl. VAT] ~ ref {order}",
]
PROMO = [
    "🎉 {name}, 20% off everything this weekend! Use code SUMMER{num}. Opt out: reply STOP.",
    "इस सप्ताहांत सब पर 20% की छूट 🎊 कोड: SUMMER{num}",
    "Nur dieses Wochenende: 20 % auf alles mit dem Code SOMMER{num} 🌞",
    "خصم 20٪ على كل شيء في عطلة نهاية الأسبوع! الرمز: SUMMER{num} 🌟",
    "Ce week-end, -20 % sur tout avec le code ETE{num} 🌻",
    "今週末は全品20%オフ！コード: SUMMER{num} 🎁",
]
TEXTS = dict(zip(LANES, [OTP, ALERT, INFO, PROMO]))
LONG = [
    "Dear {name}, we are sorry that your train was late today. You can claim half of the fare within 28 days: keep the "
    "ticket {order}, open the claims page, choose the date and the station, and add a photo of the ticket. Claims are "
    "usually decided within five working days. We apologise for the trouble and thank you for your patience.",
    "प्रिय {name}, आपके बिजली कनेक्शन में रखरखाव के कारण शनिवार सुबह 9 बजे से दोपहर 1 बजे तक बिजली बंद रहेगी। "
    "कृपया जरूरी उपकरण पहले से चार्ज कर लें। असुविधा के लिए खेद है। संदर्भ {order}",
    "Sehr geehrte(r) {name}, wegen Bauarbeiten fährt der Bus 42 von Montag bis Freitag nur bis zum Rathausplatz; von dort "
    "bringt Sie ein Ersatzbus weiter. Bitte planen Sie etwa zehn Minuten mehr ein. Auskunft unter Vorgang {order}. 🚌",
]
SUBJECTS = {
    "critical": ["Your login code", "आपका लॉगिन कोड", "Ihr Anmeldecode", "رمز الدخول"],
    "high": ["Your order {order} is on its way", "Ihre Bestellung {order} ist unterwegs 🚚", "आपका ऑर्डर {order}"],
    "normal": ["Your appointment", "Ihre Terminbestätigung für Donnerstag", "تأكيد الموعد", "Kvittering för {name}"],
    "bulk": ["🎉 20% off this weekend", "Nur dieses Wochenende: 20 % auf alles", "今週末は全品20%オフ"],
}


def fill(text, name):
    return text.format(code=f"{rng.randrange(1_000_000):06}", order=f"A-{rng.randrange(100_000):05}", name=name,
                       num=rng.randrange(10, 100), gate=rng.randrange(1, 30))


def ascii_name(name):
    text = name.lower().translate(ASCII)
    return "".join(c if c.isascii() and (c.isalnum() or c == ".") else "" for c in text)


def phone(index, code=None):
    if code is not None:  # the last four digits 99NN ask the simulator for fate NN
        return f"+33639{rng.choice(['98'])}99{code:02}"
    kind = index % 3
    if kind == 0:
        return f"+447700900{index // 3 % 1000:03}"
    if kind == 1:
        return f"+1{AREAS[index // 3 % len(AREAS)]}55501{index // 3 // len(AREAS) % 100:02}"
    return f"+33639{'98'}{index // 3 % 9900:04}"


def email(index, first, last, fate=None):
    local = ascii_name(f"{first}.{last}") + str(index)
    if fate:
        local += f".sim-{fate}"
    return f"{local}@example.{['com', 'org', 'net'][index % 3]}"


def token(index, fate=None):
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_"
    body = "".join(rng.choice(alphabet) for _ in range(120))
    mark = f"-sim-{fate}-" if fate else ""
    return f"demo{index:06}:APA91b{mark}{body}"


def row(index, channel, lane, fate=None, code=None, **extra):
    first, last = rng.choice(FIRST), rng.choice(LAST)
    name = f"{first} {last}"
    text = fill(rng.choice(TEXTS[lane]), name)
    values = dict.fromkeys(COLUMNS, "")
    values.update(channel=channel, lane=lane, template={"critical": "otp", "high": "status", "normal": "service",
                                                        "bulk": "campaign"}[lane])
    if channel == "sms":
        if lane in ("normal", "high") and rng.random() < 0.15:
            text = fill(rng.choice(LONG), name)
        values.update(to=phone(index, code), sender=rng.choice(["MDCDEM", "SHOPIN", "+447700900000"]), text=text)
    elif channel == "email":
        subject = fill(rng.choice(SUBJECTS[lane]), name)
        sender = rng.choice(["Example Shop <shop@example.com>", "Beispiel & Söhne <post@example.org>", "noreply@example.net"])
        body = f"Hello {name},\n\n{text}\n\nYours\nExample Shop"
        values.update(to=email(index, first, last, fate), sender=sender, subject=subject, text=body)
        if rng.random() < 0.5:
            values["html"] = f"<p>Hello {name},</p><p>{text}</p><p>Yours<br>Example Shop</p>"
    else:
        data = {"screen": rng.choice(["orders", "inbox", "offers"]), "id": str(rng.randrange(10_000))}
        values.update(to=token(index, fate), title=fill(rng.choice(SUBJECTS[lane]), name), text=text,
                      data=json.dumps(data))
    if rng.random() < 0.3:
        values["idempotency_key"] = f"example-{index}"
    if rng.random() < 0.02:
        values["send_at"] = f"+{rng.randrange(1, 6)}s"
    values.update(extra)
    return values


# Fates that recipients ask for; NN as in docs/simulators.md.
FATES = ["reject", "busy", "slow", "timeout", "timeout-accepted", "lost-receipt", "late-receipt", "duplicate-receipt",
         "early-receipt", "bounce", "off", "always-busy", "always-off"]
QUICK = {"timeout": "6s", "timeout-accepted": "6s", "lost-receipt": "6s"}

INVALID = [
    ("sms", "normal", "98765 43210", "no country code"),
    ("sms", "high", "+447700", "too short"),
    ("sms", "bulk", "+4477009001234567890", "too long"),
    ("sms", "normal", "+44770o900123", "letter O for zero"),
    ("sms", "critical", "", "empty"),
    ("sms", "normal", "call me", "words"),
    ("sms", "bulk", "+999123456789", "no such country code"),
    ("sms", "high", "+4407700900123", "trunk prefix kept"),
    ("email", "normal", "asha.example.com", "no at sign"),
    ("email", "normal", "asha@", "no domain"),
    ("email", "high", "@example.com", "no local part"),
    ("email", "bulk", "asha sharma@example.com", "blank inside"),
    ("email", "bulk", "asha..sharma@example.com", "two dots"),
    ("email", "normal", "asha@example", "no top level domain"),
    ("email", "critical", "asha@-example.com", "hyphen at the start"),
    ("email", "normal", "a" * 65 + "@example.com", "local part too long"),
    ("email", "bulk", "asha@example.com, ravi@example.com", "two addresses"),
    ("push", "normal", "short-token", "too short"),
    ("push", "high", "", "empty"),
    ("push", "bulk", "demo000000:APA91b" + "x" * 60 + " " + "y" * 60, "blank inside"),
    ("push", "normal", "<token>" + "z" * 120, "a placeholder left in"),
]


def main():
    rows = []
    for index in range(1150):
        channel = rng.choices(["sms", "email", "push"], [45, 30, 25])[0]
        lane = rng.choices(LANES, LANE_WEIGHTS)[0]
        rows.append(row(index, channel, lane))
    index = 2000
    for code, fate in enumerate(FATES, start=1):
        for channel in ("sms", "email", "push"):
            extra = {"receipt_timeout": QUICK[fate], "backoff": "500ms"} if fate in QUICK else {}
            if fate.startswith("always"):
                extra = {"attempts_max": "3", "backoff": "500ms"}
            rows.append(row(index, channel, LANES[index % 4], fate=fate, code=code, **extra))
            index += 1
    rng.shuffle(rows)
    # The broken ones are spread over the file; the first row is a good one, so that a newcomer sees one.
    for position, (channel, lane, to, why) in enumerate(INVALID):
        values = row(index, channel, lane)
        values.update(to=to, template=values["template"], idempotency_key="", send_at="")
        index += 1
        rows.insert(25 + position * 55, values)
    path = os.path.join(os.path.dirname(__file__), "..", "Examples", "messages.csv")
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"{len(rows)} messages, {len(INVALID)} of them with broken addresses")


if __name__ == "__main__":
    main()
