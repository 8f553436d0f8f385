# SPDX-License-Identifier: Apache-2.0
"""What the tests of the AWS providers ask of moto and botocore: aws.py sign SECONDS BODY | aws.py ask PORT WHAT…"""

import datetime
import json
import sys

import boto3
import botocore.auth
import botocore.awsrequest
import botocore.credentials


def sign(seconds, body):
    """The Authorization header that botocore makes."""
    class Auth(botocore.auth.SigV4Auth):
        def add_auth(self, request):
            request.context["timestamp"] = datetime.datetime.fromtimestamp(
                int(seconds), datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
            self._modify_request_before_signing(request)
            string_to_sign = self.string_to_sign(request, self.canonical_request(request))
            self._inject_signature_to_request(request, self.signature(string_to_sign, request))

    credentials = botocore.credentials.Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI", "t0ken")
    request = botocore.awsrequest.AWSRequest(
        method="POST", url="https://email.eu-central-1.amazonaws.com/v2/email/outbound-emails",
        headers={"content-type": "application/json"}, data=body.encode())
    Auth(credentials, "ses", "eu-central-1").add_auth(request)
    print(request.headers["Authorization"])


def ask(port, what, *words):
    base = f"http://127.0.0.1:{port}"

    def client(service):
        return boto3.client(service, endpoint_url=base, region_name="eu-central-1",
                            aws_access_key_id="AKIDEXAMPLE", aws_secret_access_key="wJalrXUtnFEMI")

    if what == "prepare":
        client("ses").verify_email_identity(EmailAddress="a@example.com")
        topic = client("sns").create_topic(Name="ses-events")["TopicArn"]
        queue = client("sqs").create_queue(QueueName="ses-events")["QueueUrl"]
        arn = client("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        client("sns").subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
    elif what == "queue":
        print(client("sqs").get_queue_url(QueueName="ses-events")["QueueUrl"])
    elif what == "publish":
        message, reference = words
        mail = {"timestamp": "2026-11-23T12:00:00.000Z", "messageId": message, "source": "a@example.com",
                "destination": ["b1@example.org"], "tags": {"mdc_reference": [reference]}}
        events = [
            {"eventType": "Delivery", "mail": mail, "delivery": {
                "timestamp": "2026-11-23T12:00:01.000Z", "recipients": ["b1@example.org"], "smtpResponse": "250 ok"}},
            {"eventType": "Bounce", "mail": mail, "bounce": {
                "bounceType": "Permanent", "bounceSubType": "General", "timestamp": "2026-11-23T12:00:02.000Z",
                "feedbackId": "f", "bouncedRecipients": [{
                    "emailAddress": "b1@example.org", "action": "failed", "status": "5.1.1",
                    "diagnosticCode": "smtp; 550 5.1.1 user unknown"}]}},
            {"hello": "this is no event of SES"},
        ]
        topic = client("sns").create_topic(Name="ses-events")["TopicArn"]
        for event in events:
            client("sns").publish(TopicArn=topic, Message=json.dumps(event))
    elif what == "left":
        queue = client("sqs").get_queue_url(QueueName="ses-events")["QueueUrl"]
        attributes = client("sqs").get_queue_attributes(
            QueueUrl=queue, AttributeNames=["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"])
        print(sum(int(count) for count in attributes["Attributes"].values()))
    elif what == "application":
        print(client("sns").create_platform_application(
            Name="app", Platform="GCM", Attributes={"PlatformCredential": "x"})["PlatformApplicationArn"])
    elif what == "disabled":
        sns = client("sns")
        arn = sns.create_platform_endpoint(PlatformApplicationArn=words[0], Token="dead")["EndpointArn"]
        sns.set_endpoint_attributes(EndpointArn=arn, Attributes={"Enabled": "false"})
        print(arn)


if sys.argv[1] == "sign":
    sign(*sys.argv[2:])
else:
    ask(*sys.argv[2:])
