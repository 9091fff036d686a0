# The pipeline starts what others do: it builds nothing and deploys nothing by its own rights.

locals {
  account    = "${var.platform.region}:${var.platform.account_id}"
  bucket_arn = "arn:aws:s3:::${local.full_name}-${var.platform.account_id}"
}

resource "aws_iam_role" "this" {
  name                 = local.full_name
  description          = "CodePipeline of ${var.platform.name}."
  permissions_boundary = var.platform.permissions_boundary_arn
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "codepipeline.amazonaws.com" }
      Condition = {
        StringEquals = { "aws:SourceAccount" = var.platform.account_id }
        ArnEquals    = { "aws:SourceArn" = "arn:aws:codepipeline:${local.account}:${local.full_name}" }
      }
    }]
  })
}

resource "aws_iam_role_policy" "this" {
  name = "deliver"
  role = aws_iam_role.this.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid      = "ExchangeFiles"
        Effect   = "Allow"
        Action   = ["s3:GetObject", "s3:GetObjectVersion", "s3:PutObject"]
        Resource = ["${local.bucket_arn}/*"]
      },
      {
        Sid      = "KnowTheBucket"
        Effect   = "Allow"
        Action   = ["s3:GetBucketVersioning"]
        Resource = [local.bucket_arn]
      },
      {
        Sid       = "EncryptFiles"
        Effect    = "Allow"
        Action    = ["kms:Decrypt", "kms:GenerateDataKey"]
        Resource  = [var.platform.kms_key_arn]
        Condition = { StringEquals = { "kms:ViaService" = "s3.${var.platform.region}.amazonaws.com" } }
      },
      {
        Sid      = "FetchCommits"
        Effect   = "Allow"
        Action   = ["codeconnections:UseConnection", "codestar-connections:UseConnection"]
        Resource = [var.source_code.connection_arn]
        Condition = { "ForAllValues:StringEquals" = {
          "codeconnections:FullRepositoryId" = var.source_code.repository
        } }
      },
      {
        Sid      = "StartBuilds"
        Effect   = "Allow"
        Action   = ["codebuild:BatchGetBuilds", "codebuild:StartBuild"]
        Resource = [for name in values(var.projects) : "arn:aws:codebuild:${local.account}:project/${name}"]
      },
      {
        Sid      = "AskForApproval"
        Effect   = "Allow"
        Action   = ["sns:Publish"]
        Resource = [var.platform.alerts_topic_arn]
      },
      {
        Sid       = "AskOnAnEncryptedTopic"
        Effect    = "Allow"
        Action    = ["kms:Decrypt", "kms:GenerateDataKey"]
        Resource  = [var.platform.kms_key_arn]
        Condition = { StringEquals = { "kms:ViaService" = "sns.${var.platform.region}.amazonaws.com" } }
      },
    ]
  })
}
