# One customer-managed key for everything that rests: who may decrypt is then one policy to read and one trail to search.

locals {
  root  = "arn:aws:iam::${var.account_id}:root"
  roles = "arn:aws:iam::${var.account_id}:role"

  # Resource "*" in a key policy means this key and nothing else (KMS developer guide, "Key policies").
  policy = {
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "TheAccountDecidesThroughIam"
        Effect    = "Allow"
        Principal = { AWS = local.root }
        Action    = "kms:*"
        Resource  = "*"
      },
      {
        Sid       = "LogGroupsOfThisAccount"
        Effect    = "Allow"
        Principal = { Service = "logs.${var.region}.amazonaws.com" }
        Action    = ["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:DescribeKey"]
        Resource  = "*"
        Condition = { ArnLike = {
          "kms:EncryptionContext:aws:logs:arn" = "arn:aws:logs:${var.region}:${var.account_id}:log-group:*"
        } }
      },
      {
        Sid       = "TrailsOfThisAccount"
        Effect    = "Allow"
        Principal = { Service = "cloudtrail.amazonaws.com" }
        Action    = ["kms:GenerateDataKey*", "kms:DescribeKey"]
        Resource  = "*"
        Condition = {
          StringEquals = { "aws:SourceAccount" = var.account_id }
          StringLike = {
            "kms:EncryptionContext:aws:cloudtrail:arn" = "arn:aws:cloudtrail:*:${var.account_id}:trail/*"
          }
        }
      },
      {
        Sid    = "ServicesThatPublishToEncryptedTopics"
        Effect = "Allow"
        Principal = { Service = [
          "backup.amazonaws.com", "budgets.amazonaws.com", "cloudwatch.amazonaws.com", "costalerts.amazonaws.com",
        ] }
        Action    = ["kms:Decrypt", "kms:GenerateDataKey*"]
        Resource  = "*"
        Condition = { StringEquals = { "aws:SourceAccount" = var.account_id } }
      },
      {
        # No condition: EventBridge sends none of the source keys to an encrypted topic (SNS developer guide, "Key
        # management"). What it can do with the key is limited to topics whose own policy lets it publish.
        Sid       = "EventsPublishToEncryptedTopics"
        Effect    = "Allow"
        Principal = { Service = "events.amazonaws.com" }
        Action    = ["kms:Decrypt", "kms:GenerateDataKey*"]
        Resource  = "*"
      },
      {
        Sid       = "ConfigWritesItsHistory"
        Effect    = "Allow"
        Principal = { Service = "config.amazonaws.com" }
        Action    = ["kms:Decrypt", "kms:GenerateDataKey"]
        Resource  = "*"
        Condition = { StringEquals = { "aws:SourceAccount" = var.account_id } }
      },
      {
        # Encrypted disks of scaling groups. These roles are AWS' own: no IAM policy of ours can be attached to them, and
        # a role named as principal must exist already, which the condition does not ask for.
        Sid       = "ServiceLinkedRolesMountEncryptedDisks"
        Effect    = "Allow"
        Principal = { AWS = "*" }
        Action    = ["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:DescribeKey"]
        Resource  = "*"
        Condition = {
          StringEquals = { "kms:CallerAccount" = var.account_id }
          ArnLike      = { "aws:PrincipalArn" = local.disk_roles }
        }
      },
      {
        Sid       = "ServiceLinkedRolesHandDisksToEc2"
        Effect    = "Allow"
        Principal = { AWS = "*" }
        Action    = "kms:CreateGrant"
        Resource  = "*"
        Condition = {
          StringEquals = { "kms:CallerAccount" = var.account_id }
          ArnLike      = { "aws:PrincipalArn" = local.disk_roles }
          Bool         = { "kms:GrantIsForAWSResource" = "true" }
        }
      },
    ]
  }

  disk_roles = [
    "${local.roles}/aws-service-role/autoscaling.amazonaws.com/AWSServiceRoleForAutoScaling*",
    "${local.roles}/aws-service-role/batch.amazonaws.com/AWSServiceRoleForBatch*",
    "${local.roles}/aws-service-role/spot.amazonaws.com/AWSServiceRoleForEC2Spot*",
  ]
}

resource "aws_kms_key" "this" {
  description             = "${var.name}: ${var.purpose}"
  deletion_window_in_days = var.deletion_window_days
  enable_key_rotation     = true
  rotation_period_in_days = var.rotation_days
  policy                  = jsonencode(local.policy)
}

resource "aws_kms_alias" "this" {
  name          = "alias/${var.name}-${var.purpose}"
  target_key_id = aws_kms_key.this.key_id
}
