# One detector and one recorder an account and region: where the organisation has them, these stay off.

resource "aws_guardduty_detector" "this" {
  # checkov:skip=CKV2_AWS_3:the detector is enabled for this account; enabling it for an organisation is not ours to do
  count                        = var.guardduty ? 1 : 0
  enable                       = true
  finding_publishing_frequency = "FIFTEEN_MINUTES"
}

module "findings" {
  count       = var.guardduty ? 1 : 0
  source      = "../event-alert"
  name        = "${var.name}-guardduty"
  description = "GuardDuty found something of severity 7 or more."
  runbook     = "key-leak"
  topic_arn   = var.alerts_topic_arn
  pattern = jsonencode({
    source      = ["aws.guardduty"]
    detail-type = ["GuardDuty Finding"]
    detail      = { severity = [{ numeric = [">=", 7] }] }
  })
}

resource "aws_iam_role" "config" {
  count                = var.config ? 1 : 0
  name                 = "${var.name}-config"
  permissions_boundary = var.permissions_boundary_arn
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "config.amazonaws.com" }
      Action    = "sts:AssumeRole"
      Condition = { StringEquals = { "aws:SourceAccount" = var.account_id } }
    }]
  })
}

resource "aws_iam_role_policy_attachment" "config" {
  count = var.config ? 1 : 0
  role  = aws_iam_role.config[0].name
  # AWS keeps this list of reading actions as services appear; a copy here would go stale.
  policy_arn = "arn:aws:iam::aws:policy/service-role/AWS_ConfigRole"
}

resource "aws_config_configuration_recorder" "this" {
  count    = var.config ? 1 : 0
  name     = var.name
  role_arn = aws_iam_role.config[0].arn
  recording_group {
    all_supported                 = true
    include_global_resource_types = true
  }
}

resource "aws_config_delivery_channel" "this" {
  count          = var.config ? 1 : 0
  name           = var.name
  s3_bucket_name = aws_s3_bucket_policy.audit.bucket
  s3_kms_key_arn = var.kms_key_arn
  depends_on     = [aws_config_configuration_recorder.this]
}

resource "aws_config_configuration_recorder_status" "this" {
  count      = var.config ? 1 : 0
  name       = aws_config_configuration_recorder.this[0].name
  is_enabled = true
  depends_on = [aws_config_delivery_channel.this]
}

resource "aws_config_config_rule" "this" {
  for_each = var.config ? {
    encrypted-volumes      = "ENCRYPTED_VOLUMES"
    no-public-bucket-read  = "S3_BUCKET_PUBLIC_READ_PROHIBITED"
    no-public-bucket-write = "S3_BUCKET_PUBLIC_WRITE_PROHIBITED"
    requests-use-tls       = "S3_BUCKET_SSL_REQUESTS_ONLY"
    root-has-no-keys       = "IAM_ROOT_ACCESS_KEY_CHECK"
    keys-rotate            = "CMK_BACKING_KEY_ROTATION_ENABLED"
    trail-is-on            = "CLOUD_TRAIL_ENABLED"
    groups-are-not-open    = "INCOMING_SSH_DISABLED"
  } : {}
  name = "${var.name}-${each.key}"
  source {
    owner             = "AWS"
    source_identifier = each.value
  }
  depends_on = [aws_config_configuration_recorder.this]
}
